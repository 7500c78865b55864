"""The hooks of the training loop, and what a callback may ask of the Trainer.

Every rank holds every callback and calls every hook in the same order, so that a hook may
communicate. A callback that writes does so on global rank 0 alone; metrics are the same on all.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_train.checkpoint.run_state import RunState
from ml_train.config.run import RunConfig
from ml_train.training.metrics import StepMetrics
from ml_train.training.verdict import Verdict

if TYPE_CHECKING:
    from ml_train.data.stream import SampleStream
    from ml_train.training.train_module import Gradients, TrainModule


class TrainerView(Protocol):
    """What callbacks use of a Trainer."""

    config: RunConfig
    train_module: "TrainModule"
    iteration: int
    """Steps done so far."""
    consumed_samples: int
    """Sequences taken from the training data so far."""
    callbacks: list["Callback"]
    stop_signal: int | None
    """The signal that ends the run."""
    saved: Path | None
    """The last checkpoint of this run that became whole."""

    def run_state(self) -> dict[str, object]:
        """What a resume needs besides tensors: iteration, consumed samples; JSON values."""
        ...

    def validate(self) -> dict[str, float]:
        """Validation losses by name. Collective."""
        ...

    @property
    def train_data(self) -> "SampleStream":
        """The training data of this rank."""
        ...

    def request_stop(self, reason: str) -> None:
        """End the run after this step. The same on every rank."""
        ...


class Callback:
    """All hooks do nothing here; a subclass writes those that it needs."""

    def on_train_start(self, trainer: TrainerView) -> None:
        """Before the first step."""

    def on_step_start(self, trainer: TrainerView) -> None:
        """Before each step."""

    def on_gradients(self, trainer: TrainerView, gradients: "Gradients") -> Verdict | None:
        """After the backward pass, before the update: the verdict on the step.

        It must be the same on every rank. The gravest verdict of all callbacks counts; None accepts
        the step.
        """

    def roll_back(self, trainer: TrainerView) -> RunState | None:
        """After the verdict rollback: load an earlier state into trainer.train_module. Collective.

        None from callbacks that hold no checkpoints. Raises CheckpointError where no checkpoint can
        be loaded.
        """

    def on_rollback(self, trainer: TrainerView, left: int, state: RunState) -> None:
        """In place of on_step_end of step `left`, after `state` was loaded.

        trainer.iteration is the state's by now.
        """

    def on_event(self, trainer: TrainerView, iteration: int, kind: str, text: str) -> None:
        """Another callback reports something about a step. kind: skipped or rollback."""

    def state(self) -> dict[str, object]:
        """What the callback wants back after a resume: JSON values under a name of its own."""
        return {}

    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """After each step; trainer.iteration counts it already."""

    def on_validation_step(self, trainer: TrainerView) -> None:
        """After each batch of a validation. A request to stop with a stop_signal breaks it off."""

    def on_validation_end(self, trainer: TrainerView, losses: dict[str, float]) -> None:
        """After each validation."""

    def on_save(self, trainer: TrainerView, path: Path) -> None:
        """After a checkpoint became whole."""

    def on_last_step(self, trainer: TrainerView) -> None:
        """After the last step, before a last validation: for what must not wait, such as a save."""

    def on_train_end(self, trainer: TrainerView) -> None:
        """When nothing is left to do."""

    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        """When an exception ends the loop. Ranks may be at different steps: do not communicate."""
