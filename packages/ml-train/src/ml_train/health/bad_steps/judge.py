"""Whether a step went wrong, from its loss, its gradients and the history of accepted steps.

This is arithmetic alone. Every rank judges the same numbers by the same history, which goes into
checkpoints. A spike is measured against the median of the history: a mean would rise with every
spike that was let through.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ml_train.config.sections.health import HealthSection

KINDS = ("nan_loss", "nan_grad", "spiky_loss", "large_grads")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a step."""

    kind: str
    """Of KINDS."""
    text: str
    policy: str
    """stop, skip or rollback."""


class Judge:
    """Holds the losses and gradient norms of the last accepted steps."""

    def __init__(self, config: HealthSection):
        self._config = config
        self._losses: list[float] = []
        self._norms: list[float] = []

    @property
    def needs_grad_norm(self) -> bool:
        """Whether the norm is to be known before the update."""
        return self._config.check_for_large_grads

    def fault(self, loss: float, *, gradients_finite: bool, grad_norm: float | None) -> str | None:
        """The kind of the step's fault, the first in the order of KINDS; None for a good step."""
        config = self._config
        if config.check_for_nan_in_loss_and_grad:
            if not math.isfinite(loss):
                return "nan_loss"
            if not gradients_finite or not math.isfinite(grad_norm or 0.0):
                return "nan_grad"
        # With the check off, numbers that are not finite are no spike either: the step is skipped
        # by the optimizer and no policy applies.
        if not (math.isfinite(loss) and gradients_finite):
            return None
        if config.check_for_spiky_loss and self._above(
            loss, self._losses, config.spiky_loss_factor
        ):
            return "spiky_loss"
        if grad_norm is not None and self._above(grad_norm, self._norms, config.large_grads_factor):
            return "large_grads"
        return None

    def describe(self, kind: str, loss: float, grad_norm: float | None) -> Fault:
        """The fault in words."""
        config = self._config
        if kind == "nan_loss":
            text = f"the loss is {loss}"
        elif kind == "nan_grad":
            norm = "" if grad_norm is None else f" (norm {grad_norm})"
            text = f"the loss is {loss:.4f}, but a gradient is not finite{norm}"
        elif kind == "spiky_loss":
            text = (
                f"the loss is {loss:.4f}, above --spiky-loss-factor {config.spiky_loss_factor:g} "
                f"x {self._median(self._losses):.4f}, the median of the last {len(self._losses)}"
            )
        else:
            text = (
                f"the gradient norm is {grad_norm:.4g}, above --large-grads-factor "
                f"{config.large_grads_factor:g} x {self._median(self._norms):.4g}, the median of "
                f"the last {len(self._norms)}"
            )
        policies = (
            *(config.nan_loss_policy, config.nan_grad_policy),
            *(config.spiky_loss_policy, config.large_grads_policy),
        )
        return Fault(kind=kind, text=text, policy=policies[KINDS.index(kind)])

    def accept(self, loss: float, grad_norm: float | None) -> None:
        """An update was made."""
        if self._config.check_for_spiky_loss:
            self._losses = [*self._losses, loss][-self._config.spike_window :]
        if self._config.check_for_large_grads and grad_norm is not None:
            self._norms = [*self._norms, grad_norm][-self._config.spike_window :]

    def state(self) -> dict[str, list[float]]:
        """The history, as JSON values that come back to the bit."""
        return {"losses": self._losses, "norms": self._norms}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Put back what state() gave, or start anew from {}."""
        window = self._config.spike_window
        self._losses = [float(loss) for loss in state.get("losses", [])][-window:]
        self._norms = [float(norm) for norm in state.get("norms", [])][-window:]

    def _above(self, value: float, history: list[float], factor: float) -> bool:
        full = len(history) >= self._config.spike_window
        return full and value > factor * self._median(history)

    @staticmethod
    def _median(history: list[float]) -> float:
        return statistics.median(history) if history else math.nan
