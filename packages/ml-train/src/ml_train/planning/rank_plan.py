"""Builds a rank on the meta device, does a training step with it, and gives what was counted.

The step runs megatron-core's own schedule, with as many micro batches as the rank ever holds at a
time. What a micro batch costs is the same for all of them, so that more of them add no more to the
peak, and their traffic is multiplied.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from megatron.core import parallel_state

from ml_train.planning.fake_groups import rank_of
from ml_train.planning.held import HeldBytes, held_bytes
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.meter import Collective, Meter
from ml_train.planning.routing import choose_in
from ml_train.planning.time.recorder import PASSES, WorkRecorder
from ml_train.planning.time.work import Products, Work, total
from ml_train.planning.traffic import Traffic, traffic_of_step
from ml_train.training.timing import phase_of
from ml_train.training.train_module import Batch, TrainModule

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_models.platforms.base import Platform
    from ml_train.config.run import RunConfig
    from ml_train.parallel.layout import Layout


@dataclass(frozen=True, kw_only=True)
class RankWork:
    """What a rank computes, by the operators that torch dispatched."""

    microbatch: Work
    update: Work
    """The reduction of gradients and the optimizer's step."""


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """What a rank holds and sends."""

    rank: int
    stage: int
    """Pipeline stage."""
    held: HeldBytes
    activations: int
    """Most bytes beyond `held` in the passes, from the first forward to the last backward."""
    update: int
    """Most bytes beyond `held` in the reduction of gradients and the optimizer's step."""
    kept: int
    """What a micro batch in flight keeps for its backward pass: each of them adds as much to the
    activations. 0 where a single one was run."""
    sent_back: int
    """Bytes of the gradient that a stage sends to the stage before it; 0 on the first stage."""
    traffic: tuple[Traffic, ...]
    work: RankWork

    @property
    def peak(self) -> int:
        """Most bytes at any time."""
        return self.held.total + max(self.activations, self.update)


_UPDATE = "update"
"""The phase from the reduction of gradients on."""

_INSIDE_KERNEL = "inside a kernel"


class Phases:
    """The timers of a TrainModule: tell the meter where the schedule is."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.before_backward: list[int] = []
        """Live bytes at the start of every backward pass."""

    def __call__(self, name: str, **_: object) -> "_Phase":
        # megatron-core's first timer behind the last backward pass.
        return _Phase(self, _UPDATE if name == "all-grads-sync" else phase_of(name))


class _Phase:
    def __init__(self, phases: Phases, name: str | None) -> None:
        self._phases, self._meter, self._name = phases, phases.meter, name

    def start(self, **_: object) -> None:
        """megatron-core enters a phase."""
        if self._name is not None and self._meter.phase != _UPDATE:
            self._meter.phase = self._name
            if self._name == "backward":
                self._phases.before_backward.append(self._meter.live_bytes)

    def stop(self, **_: object) -> None:
        """megatron-core leaves it. Nothing of a step comes behind the update."""
        if self._name is not None and self._meter.phase != _UPDATE:
            self._meter.phase = ""


def plan_rank(
    config: "RunConfig",
    model: "ModelConfig",
    layout: "Layout",
    rank: int,
    *,
    platform: MetaPlatform,
    num_microbatches: int | None = None,
    tokens_per_expert: Sequence[float] | None = None,
) -> RankPlan:
    """Build `rank` and run a step of it, inside the platform's context.

    num_microbatches: how many are run; None for as many as are ever in flight.
    tokens_per_expert: shares of the experts in every layer; None for balanced routing.
    """
    meter = Meter(platform.device.type)
    with rank_of(layout, rank, platform), platform.forms(config.kernels.settings(), meter):
        return run_rank(
            config,
            model,
            layout,
            platform,
            meter=meter,
            num_microbatches=num_microbatches or microbatches_in_flight(layout),
            tokens_per_expert=tokens_per_expert,
        )


def run_rank(
    config: "RunConfig",
    model: "ModelConfig",
    layout: "Layout",
    platform: "Platform",
    *,
    meter: Meter,
    num_microbatches: int,
    tokens_per_expert: Sequence[float] | None = None,
) -> RankPlan:
    """Build this process's rank, run a step of `num_microbatches`, and count. Collective.

    Inside the platform's context and the process groups, of planned or of real ranks: the tests
    hold a plan to the numbers that real processes give here.
    """
    # Operators inside a kernel are counted in a phase that nobody asks for.
    recorder = WorkRecorder(lambda: _INSIDE_KERNEL if meter.inside_kernel else meter.phase)
    phases = Phases(meter)
    with meter, recorder:
        # megatron-core makes some parameters without naming a device and moves them later. A move
        # to the meta device would make a new parameter, without the attributes of the first.
        with platform.device:
            module = TrainModule.build(config, model, layout, platform, timers=phases)
        bytes_at_rest = held_bytes(module)
        choose_in(module.model_chunks, tokens_per_expert)
        at_rest = meter.live_bytes
        # Building is over: what follows is the step's.
        meter.collectives.clear()
        meter.launches.clear()
        meter.peaks.clear()
        recorder.clear()
        module.train_step(made_up_batches(module, num_microbatches))
    stage = parallel_state.get_pipeline_model_parallel_rank()
    sent_back = _sent_back(meter.collectives, stage)
    update = meter.peaks.pop(_UPDATE, 0)
    passes = max(meter.peaks.values())
    return RankPlan(
        rank=torch.distributed.get_rank(),
        stage=stage,
        held=bytes_at_rest,
        activations=max(0, passes - at_rest),
        update=max(0, update - at_rest),
        kept=_kept(phases.before_backward, sent_back),
        sent_back=sent_back,
        traffic=traffic_of_step(
            meter.collectives, repeats=layout.num_microbatches / num_microbatches
        ),
        work=RankWork(
            microbatch=_work(recorder, meter, PASSES).times(1 / num_microbatches),
            update=_work(recorder, meter, [_UPDATE]),
        ),
    )


def _work(recorder: WorkRecorder, meter: Meter, phases: Collection[str]) -> Work:
    """What operators and the kernels without operators computed in `phases`."""
    launches = [launch for launch in meter.launches if launch.phase in phases]
    attention = [launch for launch in launches if launch.kind == "attention"]
    others = [launch for launch in launches if launch.kind == "other"]
    products = [
        Products(
            rows=launch.shape.rows,
            columns=launch.shape.columns,
            inner=launch.shape.inner,
            count=launch.shape.batch,
            dtype=str(launch.shape.dtype).removeprefix("torch."),
            result_bytes=launch.shape.dtype.itemsize,
        )
        for launch in launches
        if launch.shape is not None
    ]
    stood_for = Work(
        products=tuple(products),
        attention_flops=sum(launch.flops for launch in attention),
        memory_bytes=sum(launch.moved_bytes for launch in others),
        kernels=len(launches),
    )
    return total([recorder.work(phases), stood_for])


def _kept(before_backward: list[int], sent_back: int) -> int:
    """What a micro batch keeps, from live bytes at the starts of a step's last backward passes.

    No forward pass lies between the last two of them in a pipeline, so that the memory of a micro
    batch is the difference. The second begins with the gradient in memory that the first gave.
    """
    if len(before_backward) < 2:
        return 0
    return before_backward[-2] - before_backward[-1] + sent_back


def _sent_back(collectives: Sequence[Collective], stage: int) -> int:
    """Bytes of a gradient that this stage sends to the stage before it."""
    sends = [call.num_bytes for call in collectives if call.kind == "send"]
    return max(sends) if stage > 0 else 0


def microbatches_in_flight(layout: "Layout") -> int:
    """Enough for the most micro batches that are in flight on any stage, see Megatron's schedules.

    Without virtual stages stage p has at most pp - p of them in flight. With virtual stages the
    first stage has some more than pp of them, and their number is a multiple of pp.
    """
    enough = 2 * layout.pp if layout.vp > 1 else layout.pp
    return min(layout.num_microbatches, enough)


def made_up_batches(module: TrainModule, number: int) -> list[Batch | None]:
    """Micro batches of token 0, or None on a stage that needs no tokens."""
    if not module.needs_data:
        return [None] * number
    length = module.model_config.seq_length
    shape = (module.micro_batch_size, length)
    batch = {
        "tokens": torch.zeros(shape, dtype=torch.int64, device="cpu"),
        "labels": torch.zeros(shape, dtype=torch.int64, device="cpu"),
        "position_ids": torch.arange(length, device="cpu").expand(shape).contiguous(),
        "loss_mask": torch.ones(shape, device="cpu"),
    }
    return [batch] * number
