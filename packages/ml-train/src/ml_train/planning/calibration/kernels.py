"""What a rank computes and sends in a step, kernel by kernel.

planning/time adds up the bytes and FLOPs of kernels, which is enough for devices that are known by
their peaks. On a measured device the time of a kernel depends on its own size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_models.costs.recorder import Kernel, Recorder
from ml_train.planning.fake_groups import rank_of
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.meter import Collective, Meter
from ml_train.planning.rank_plan import Phases, made_up_batches
from ml_train.planning.routing import choose_in
from ml_train.planning.time.recorder import PASSES
from ml_train.training.train_module import TrainModule

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.config.run import RunConfig
    from ml_train.parallel.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Part:
    """Of a step."""

    kernels: tuple[Kernel, ...]
    collectives: tuple[Collective, ...]


@dataclass(frozen=True, kw_only=True)
class RankStep:
    """A step of a rank."""

    passes: Part
    """Forward and backward passes of all recorded micro batches."""
    num_microbatches: int
    """That were recorded."""
    once: Part
    """What comes once a step: the reduction of gradients, the update, the numbers to report."""


class _KernelRecorder(Recorder):
    """Remembers in which phase of a Meter a kernel was."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter
        self.phases: list[str] = []

    def __torch_dispatch__(self, *arguments: Any, **named: Any) -> object:
        phase = self._meter.phase
        result = super().__torch_dispatch__(*arguments, **named)
        self.phases += [phase] * (len(self.kernels) - len(self.phases))
        return result


def rank_step(
    config: "RunConfig",
    model: "ModelConfig",
    layout: "Layout",
    rank: int,
    *,
    platform: MetaPlatform,
) -> RankStep:
    """Build `rank` and run a step of it, inside the platform's context."""
    # With virtual stages megatron-core takes micro batches in multiples of the stages.
    number = layout.pp if layout.vp > 1 else 1
    meter = Meter(platform.device.type)
    recorder = _KernelRecorder(meter)
    with rank_of(layout, rank, platform), meter:
        with platform.device:
            module = TrainModule.build(config, model, layout, platform, timers=Phases(meter))
        choose_in(module.model_chunks)
        batches = made_up_batches(module, number)
        # Adam makes its moments in the first step.
        module.train_step(batches)
        meter.phase = ""
        meter.collectives.clear()
        with recorder:
            module.train_step(batches)
    of_passes = [phase in PASSES for phase in recorder.phases]
    kernels = list(zip(recorder.kernels, of_passes, strict=True))

    def part(wanted: bool) -> Part:
        return Part(
            kernels=tuple(
                kernel
                for kernel, is_pass in kernels
                if is_pass == wanted and kernel.kind != "communication"
            ),
            collectives=tuple(
                call
                for call in meter.collectives
                if (call.phase in PASSES) == wanted and len(call.ranks) > 1
            ),
        )

    return RankStep(passes=part(True), num_microbatches=number, once=part(False))
