"""Tells the watch over a rank which step it is in, and of errors before anything else hears."""

from ml_train.health.hangs.watch import Watch
from ml_train.training.callbacks.base import Callback, TrainerView


class WatchCallback(Callback):
    """Stands first in the list: its report comes before signal handlers are given back."""

    def __init__(self, watch: Watch):
        self._watch = watch

    def on_step_start(self, trainer: TrainerView) -> None:
        self._watch.step = trainer.iteration + 1

    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        self._watch.failed(error)
