"""The hooks of the training loop, and what a callback may ask of the Trainer.

Every rank holds every callback and calls every hook in the same order, so that a hook may
communicate. A callback that writes does so on global rank 0 alone; metrics are the same on all.
"""

from pathlib import Path
from typing import Any, Protocol

from ml_train.training.metrics import StepMetrics


class TrainerView(Protocol):
    """What callbacks use of a Trainer."""

    config: Any
    """RunConfig."""
    train_module: Any
    """Has model_chunks, optimizer, opt_param_scheduler, model_config, transformer_config."""
    iteration: int
    """Steps done so far."""
    callbacks: Any

    def run_state(self) -> dict[str, Any]:
        """What a resume needs besides tensors: iteration, consumed samples; JSON values."""
        ...

    def validate(self) -> dict[str, float]:
        """Validation losses by name. Collective."""
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

    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """After each step; trainer.iteration counts it already."""

    def on_validation_end(self, trainer: TrainerView, losses: dict[str, float]) -> None:
        """After each validation."""

    def on_save(self, trainer: TrainerView, path: Path) -> None:
        """After a checkpoint became whole."""

    def on_train_end(self, trainer: TrainerView) -> None:
        """After the last step."""

    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        """When the loop is left by an exception; ranks may be out of step: don't communicate."""
