"""The format of xAI's release of Grok-1: ckpt-0 and the settings of run.py."""
