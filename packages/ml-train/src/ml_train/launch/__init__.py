"""torchrun that says in one sentence what is wrong, and lets a run save when it is told to end."""

from ml_train.launch.command import main

__all__ = ["main"]
