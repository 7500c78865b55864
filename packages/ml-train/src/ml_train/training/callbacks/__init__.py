"""Cadence and policy around the training loop."""

from ml_train.training.callbacks.base import Callback, TrainerView

__all__ = ["Callback", "TrainerView"]
