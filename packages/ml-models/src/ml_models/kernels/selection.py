"""How a form of an operation is chosen: by device, by flag, and by what is installed.

An Operation lists its forms. A form says for a Situation why it cannot serve, or nothing. Without
a request the first form of the device's order serves that can, and the reason of the choice names
those before it with what hindered them. A request of the user is met or refused, never dropped.
This module does not import torch, so that `ml-train show-config` stays quick.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ml_models.errors import ConfigError
from ml_models.scoring import Scoring

AUTO = "auto"
"""The value of a setting that leaves the choice to the device."""

ANY_DEVICE = "any other"
"""The key of `Operation.order` for devices that have no order of their own."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the choice of a form depends on."""

    device: str
    """Type of torch's device: cpu, cuda, npu, or a plug-in's."""
    dtype: str
    """Activations' dtype: float32, bfloat16 or float64."""
    scoring: Scoring
    """Attention's rule for scores."""
    head_size: int
    """Channels of an attention head."""
    activation: str = "silu"
    """Of the experts' gate, a name of kernels/activation.py."""
    widths: tuple[int, ...] = ()
    """Sizes that an expert's matrix products sum over or give."""


Hindrance = Callable[[Situation], str]
"""Why a form cannot serve, as the end of a sentence; "" where it can."""


def nothing_hinders(_: Situation) -> str:
    """The hindrance of a form that runs everywhere."""
    return ""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way to compute an operation."""

    name: str
    text: str
    """What it is, in a few words, for tables."""
    hindrance: Hindrance = nothing_hinders


@dataclass(frozen=True, kw_only=True)
class Request:
    """A value of the operation's setting other than auto."""

    flag: str
    """How a user gives it, such as --attention-backend fused."""
    forms: tuple[str, ...]
    """The forms that meet it, the best first."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation with its forms."""

    name: str
    forms: tuple[Form, ...]
    order: Mapping[str, tuple[str, ...]]
    """Device type or ANY_DEVICE -> forms that may serve without a request, the best first."""
    requests: Mapping[str, Request] = field(default_factory=dict)
    """Value of the setting -> what it asks for."""

    def form(self, name: str) -> Form:
        """The form called `name`."""
        return next(form for form in self.forms if form.name == name)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The form that computes an operation, and why."""

    operation: str
    form: str
    reason: str


def choose(operation: Operation, situation: Situation, asked: str = AUTO) -> Choice:
    """The form that serves. ConfigError where no form meets the request, with every reason."""
    if asked == AUTO:
        names = operation.order.get(situation.device, operation.order.get(ANY_DEVICE, ()))
        reason = f"the default on {situation.device}"
    else:
        if asked not in operation.requests:
            known = ", ".join((AUTO, *operation.requests))
            raise ConfigError(f"the form of {operation.name} is {asked!r}; known: {known}.")
        names = operation.requests[asked].forms
        reason = operation.requests[asked].flag
    hindered: list[str] = []
    for name in names:
        hindrance = operation.form(name).hindrance(situation)
        if not hindrance:
            return Choice(
                operation=operation.name, form=name, reason="; ".join((reason, *hindered))
            )
        hindered.append(f"not {name}: {hindrance}")
    raise ConfigError(
        f"{reason}: no form of {operation.name} can serve. {'; '.join(hindered)}. Drop the flag: "
        "without it the device's default serves."
    )
