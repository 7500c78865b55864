"""Token files (.bin/.idx) to batches: sample indexes, splits, blends, and loaders.

This file imports nothing: commands check their configuration before they import torch.
"""
