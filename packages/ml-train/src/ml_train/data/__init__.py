"""Token files (.bin/.idx) to batches: sample indexes, splits, blends, and loaders."""
