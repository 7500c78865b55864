"""torchrun with a sentence for each failure; a run that is told to end may save first."""

from ml_train.launch.command import main

__all__ = ["main"]
