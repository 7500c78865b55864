"""Tells the watch over a rank which step the rank is in, and which error ends it."""

from typing_extensions import override

from ml_train.health.hangs.watch import Watch
from ml_train.training.callbacks.base import Callback, TrainerView


class WatchCallback(Callback):
    """Stands first in the list of callbacks: its report on an error comes before signal handlers
    are given back."""

    def __init__(self, watch: Watch):
        self._watch = watch

    @override
    def on_step_start(self, trainer: TrainerView) -> None:
        self._watch.step = trainer.iteration + 1

    @override
    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        self._watch.failed(error)
