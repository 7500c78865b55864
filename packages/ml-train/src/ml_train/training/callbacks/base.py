"""The hooks of the training loop, and what a callback may ask of the Trainer.

Every rank holds every callback and calls every hook in the same order, so that a hook may
communicate. A callback that writes does so on global rank 0 alone; metrics are the same on all.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ml_train.checkpoint.run_state import RunState
from ml_train.training.metrics import StepMetrics
from ml_train.training.verdict import ACCEPTED, Verdict

if TYPE_CHECKING:
    from ml_train.training.train_module import Gradients


class TrainerView(Protocol):
    """What callbacks use of a Trainer."""

    config: Any
    """RunConfig."""
    train_module: Any
    """Has model_chunks, optimizer, opt_param_scheduler, model_config, transformer_config."""
    iteration: int
    """Steps done so far."""
    consumed_samples: int
    """Sequences taken from the training data so far."""
    callbacks: Any
    stop_signal: int | None
    """The signal that ends the run."""
    saved: Path | None
    """The last checkpoint of this run that became whole."""

    def run_state(self) -> dict[str, Any]:
        """What a resume needs besides tensors: iteration, consumed samples; JSON values."""
        ...

    def validate(self) -> dict[str, float]:
        """Validation losses by name. Collective."""
        ...

    @property
    def train_data(self) -> Any:
        """The SampleStream of the training data."""
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

    def on_gradients(self, trainer: TrainerView, gradients: "Gradients") -> Verdict:
        """After the backward pass, before the update. The gravest verdict of all callbacks counts;
        each must be the same on every rank."""
        return ACCEPTED

    def roll_back(self, trainer: TrainerView) -> RunState | None:
        """After the verdict rollback: load an earlier state into trainer.train_module. None from
        callbacks that hold none, CheckpointError where there is none to load. Collective."""
        return None

    def on_rollback(self, trainer: TrainerView, left: int, state: RunState) -> None:
        """Instead of on_step_end of step `left`: `state` is loaded, trainer.iteration is its."""

    def on_event(self, trainer: TrainerView, iteration: int, kind: str, text: str) -> None:
        """Another callback has something to report of a step: skipped, rollback."""

    def state(self) -> dict[str, Any]:
        """What it wants back after a resume: JSON values by a name of its own."""
        return {}

    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """After each step; trainer.iteration counts it already."""

    def on_validation_step(self, trainer: TrainerView) -> None:
        """After each batch of a validation; request_stop with a stop_signal breaks it off."""

    def on_validation_end(self, trainer: TrainerView, losses: dict[str, float]) -> None:
        """After each validation."""

    def on_save(self, trainer: TrainerView, path: Path) -> None:
        """After a checkpoint became whole."""

    def on_last_step(self, trainer: TrainerView) -> None:
        """After the last step, before a last validation: what must not wait, such as a save."""

    def on_train_end(self, trainer: TrainerView) -> None:
        """When nothing is left to do."""

    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        """When the loop is left by an exception; ranks may be out of step: don't communicate."""
