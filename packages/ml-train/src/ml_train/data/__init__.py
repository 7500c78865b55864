"""Token files (.bin/.idx) to batches: sample indexes, splits, blends, and loaders."""

from ml_train.data.config import DataConfig
from ml_train.data.loaders import Batch, DataLoaders, build_dataloaders

__all__ = ["Batch", "DataConfig", "DataLoaders", "build_dataloaders"]
