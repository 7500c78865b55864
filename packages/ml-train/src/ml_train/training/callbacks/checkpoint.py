"""When checkpoints are written: every --save-interval steps and at the end of the run."""

from typing import TYPE_CHECKING

from typing_extensions import override

from ml_train.checkpoint.manager import CheckpointManager
from ml_train.checkpoint.run_state import RunState
from ml_train.checkpoint.save import SaveOutcome
from ml_train.errors import CheckpointError
from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics
from ml_train.training.verdict import Verdict

if TYPE_CHECKING:
    from ml_train.training.train_module import Gradients


class CheckpointCallback(Callback):
    """Saves through a CheckpointManager and tells the other callbacks of each whole checkpoint."""

    def __init__(self, manager: CheckpointManager):
        self._manager = manager
        # on_gradients keeps the promise.
        manager.copies_overlap = True
        self._last_step: int | None = None

    @override
    def on_train_start(self, trainer: TrainerView) -> None:
        self._last_step = trainer.iteration

    @override
    def on_gradients(self, trainer: TrainerView, gradients: "Gradients") -> Verdict | None:
        """Before an update: the copies of the last save must be whole."""
        self._manager.finish_copies()
        return None

    @override
    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        # A save in the background may have become whole since the last step.
        self._announce(trainer, self._manager.poll())
        config = self._manager.config
        interval = None if config.save is None else config.save_interval
        if interval is not None and trainer.iteration % interval == 0:
            # save() waits as well, but would drop the outcome of the save before.
            self._announce(trainer, self._manager.wait())
            self._last_step = trainer.iteration
            outcome = self._manager.save(trainer.train_module, trainer.run_state())
            self._announce(trainer, outcome)

    @override
    def roll_back(self, trainer: TrainerView) -> RunState:
        """Load the newest whole checkpoint of --save. Raises CheckpointError without one."""
        # A checkpoint that is still being written may be the newest.
        self._announce(trainer, self._manager.wait())
        return self._manager.roll_back(trainer.train_module)

    @override
    def on_rollback(self, trainer: TrainerView, left: int, state: RunState) -> None:
        """The step that was loaded is saved; the steps after it are void."""
        self._last_step = trainer.iteration

    @override
    def on_train_end(self, trainer: TrainerView) -> None:
        """As on_last_step, for loops that do not call that."""
        self.on_last_step(trainer)

    @override
    def on_last_step(self, trainer: TrainerView) -> None:
        """Save the last step unless it is saved, and wait until it is on the disk.

        Raises CheckpointError if the run's last state could not be written.
        """
        outcome = self._manager.wait()
        self._announce(trainer, outcome)
        if self._manager.config.save is None:
            return
        failed = outcome is not None and outcome.path is None
        if trainer.iteration != self._last_step or failed:
            outcome = self._manager.save(
                trainer.train_module, trainer.run_state(), in_background=False
            )
            self._announce(trainer, outcome)
            self._last_step = trainer.iteration
            if outcome is not None and outcome.path is None:
                raise CheckpointError(
                    f"The run ended after step {outcome.iteration} and its last state could not "
                    f"be saved: {outcome.error}. Earlier checkpoints are untouched."
                )

    def _announce(self, trainer: TrainerView, outcome: SaveOutcome | None) -> None:
        if outcome is None:
            return
        if outcome.path is None:
            # The end of the run then saves again.
            self._last_step = None
            return
        trainer.saved = outcome.path
        for callback in trainer.callbacks:
            callback.on_save(trainer, outcome.path)
