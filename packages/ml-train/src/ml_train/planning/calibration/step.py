"""Seconds of a training step on a measured device."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_train.planning.calibration.device_file import for_processes
from ml_train.planning.calibration.kernels import Part, RankStep, rank_step
from ml_train.planning.calibration.measured import Measured
from ml_train.planning.calibration.seconds import computing_seconds
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.meter import Collective

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.config.run import RunConfig
    from ml_train.parallel.layout import Layout


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """Seconds of a step of the slowest stage, by what takes them."""

    computing: float
    """Kernels and the host's part, of all micro batches."""
    messages: float
    """Of all micro batches."""
    bubble: float
    """Waiting for other stages."""
    update: float
    """The reduction of gradients, the optimizer's step and what is reported."""

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.computing + self.messages + self.bubble + self.update

    def document(self) -> dict[str, float]:
        """Of a JSON document."""
        return {**dataclasses.asdict(self), "seconds": self.seconds}

    def words(self) -> str:
        """A sentence of a report."""
        parts = {
            "computing": self.computing,
            "messages": self.messages,
            "waiting for other stages": self.bubble,
            "the update": self.update,
        }
        shares = ", ".join(f"{name} {value:.3g} s" for name, value in parts.items() if value)
        return (
            f"A step takes {self.seconds:.3g} s by what --calibrate measured ({shares}), with data "
            "at hand and no save."
        )


def measured_step(
    config: "RunConfig",
    model: "ModelConfig",
    layout: "Layout",
    measured: Sequence[Measured],
    *,
    platform: MetaPlatform,
) -> MeasuredStep:
    """Build a rank of every stage and add its kernels up, inside the platform's context."""
    per_stage = layout.world // layout.pp
    steps = [
        rank_step(config, model, layout, stage * per_stage, platform=platform)
        for stage in range(layout.pp)
    ]
    return max((_of_stage(step, layout, measured) for step in steps), key=lambda item: item.seconds)


def _of_stage(step: RankStep, layout: "Layout", measured: Sequence[Measured]) -> MeasuredStep:
    together = for_processes(measured, layout.world)
    per_stage = layout.world // layout.pp
    number = layout.num_microbatches / step.num_microbatches
    computing = number * computing_seconds(step.passes.kernels, together)
    sent = number * message_seconds(step.passes.collectives, together)
    once = part_seconds(step.once, together)
    bubble = 0.0
    for active in range(1, layout.pp):
        # While the pipeline fills, and again while it drains, `active` stages compute. Where
        # processes share cores, these are faster then. A process among several has a thread,
        # so that the figures of a single process, which has all of them, do not stand for it.
        fewer = for_processes(measured, max(2, active * per_stage))
        bubble += part_seconds(step.passes, fewer) / step.num_microbatches / layout.vp
    return MeasuredStep(computing=computing, messages=sent, bubble=bubble, update=once)


def part_seconds(part: Part, measured: Measured) -> float:
    """Kernels, the host's part and messages."""
    computing = computing_seconds(part.kernels, measured)
    return computing + message_seconds(part.collectives, measured)


def message_seconds(collectives: Iterable[Collective], measured: Measured) -> float:
    """Of messages that nothing hides."""
    return sum(_message(call, measured) for call in collectives)


def _message(call: Collective, measured: Measured) -> float:
    if not measured.messages:
        return 0.0
    size = min(measured.messages, key=lambda size: abs(size - len(call.ranks)))
    curves = measured.messages[size]
    if call.kind == "receive":
        # It ends when the neighbour's send does.
        return 0.0
    kind = {"broadcast": "all-gather", "reduce": "all-reduce"}.get(call.kind, call.kind)
    return curves[kind].seconds(call.num_bytes)
