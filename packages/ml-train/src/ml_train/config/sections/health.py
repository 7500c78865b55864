"""Which faults every step is checked for, and what a fault leads to."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ml_train.config.sections.rules import COUNT, NUMBER_OR_NONE, Range, Section

Policy = Literal["stop", "skip", "rollback"]

_FACTOR = Range(above=1, text="above 1, as it multiplies the median of recent steps")


@dataclass(frozen=True, kw_only=True)
class HealthSection(Section):
    """Loss and gradients: one policy per kind of fault, each stop, skip or rollback."""

    check_for_nan_in_loss_and_grad: bool = True
    """Act by policy on a loss or gradient that is NaN or Inf; off, such updates are skipped."""

    nan_loss_policy: Policy = "stop"
    """For a loss that is NaN or Inf: stop, skip (the update), or rollback (and skip the data)."""

    nan_grad_policy: Policy = "stop"
    """For a gradient that is NaN or Inf: stop, skip or rollback."""

    check_for_spiky_loss: bool = False
    """Act by policy on a loss above --spiky-loss-factor times the median of recent ones."""

    spiky_loss_policy: Policy = "stop"
    """For a spike of the loss: stop, skip or rollback."""

    spiky_loss_factor: Annotated[float, _FACTOR] = 2.0
    """How many times the median is a spike of the loss."""

    check_for_large_grads: bool = False
    """Act by policy on a gradient norm above --large-grads-factor times the recent median."""

    large_grads_policy: Policy = "stop"
    """For a spike of the gradient norm: stop, skip or rollback."""

    large_grads_factor: Annotated[float, _FACTOR] = 10.0
    """How many times the median is a spike of the gradient norm."""

    spike_window: Annotated[int, COUNT] = 64
    """Updates whose median spikes are measured against; before there are as many, none is seen."""

    max_consecutive_skips: Annotated[int, NUMBER_OR_NONE] = 10
    """Stop when more updates than this are skipped in a row."""

    max_rollbacks: Annotated[int, NUMBER_OR_NONE] = 3
    """Stop instead of rolling back more often than this in the whole run."""

    def uses(self, policy: str) -> bool:
        """Whether a check that is on has this policy."""
        nan = self.check_for_nan_in_loss_and_grad
        return policy in (
            self.nan_loss_policy if nan else None,
            self.nan_grad_policy if nan else None,
            self.spiky_loss_policy if self.check_for_spiky_loss else None,
            self.large_grads_policy if self.check_for_large_grads else None,
        )
