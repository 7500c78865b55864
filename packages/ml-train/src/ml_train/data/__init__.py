"""Token files (.bin/.idx) to batches: sample indexes, splits, blends, and loaders.

Empty on purpose: the configuration is read, and its errors are told, before torch is imported.
"""
