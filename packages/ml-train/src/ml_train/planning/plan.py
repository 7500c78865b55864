"""The plan of a run: its kinds of ranks, built one after another in this process."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_models.build import pad_vocab_size
from ml_models.costs.target_forms import chosen_as_on, packages_of
from ml_models.kernels.selection import Choice
from ml_models.kernels.table import choices
from ml_models.parameters import count_parameters
from ml_train.config.run import RunConfig
from ml_train.parallel.layout import Layout
from ml_train.planning.advice import Advice, advice
from ml_train.planning.calibration.measured import Measured
from ml_train.planning.calibration.step import MeasuredStep, measured_step
from ml_train.planning.long_pipeline import plan_any_rank
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.rank_plan import RankPlan
from ml_train.planning.run_time import RunScope, RunTime, run_time
from ml_train.planning.target import platform_of
from ml_train.planning.time.cluster import Cluster
from ml_train.planning.time.rates import rates_of

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_models.platforms.devices import Device
    from ml_train.config.load import LoadedConfig

NOTES = (
    "Every expert gets the same number of tokens.",
    "Memory is what tensors take: what a device's driver, its collectives and the gaps of its "
    "allocator take is not in it (2 to 6 GB are usual; leave a tenth of the memory free).",
    "Sent bytes are those of ring algorithms.",
)
"""What the figures assume and leave out."""


@dataclass(frozen=True, kw_only=True)
class RankClass:
    """Ranks that hold the same."""

    title: str
    """Such as "stage 0 (embedding)"."""
    num_ranks: int
    plan: RankPlan
    """Of the rank that holds most among them."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Everything that `ml-train plan` prints."""

    model: str
    layout: "Layout"
    device: "Device"
    devices_per_node: int
    classes: Sequence[RankClass]
    advice: Sequence[Advice]
    forms: Sequence[Choice]
    """The forms of the operations that the device is taken to use."""
    checkpoint_bytes: int
    time: RunTime
    notes: Sequence[str]
    """What the figures assume and leave out."""
    measured_step: MeasuredStep | None = None
    """Where the device was measured with as many processes, see planning/calibration."""

    @property
    def peak(self) -> int:
        """Most bytes on any rank."""
        return max(ranks.plan.peak for ranks in self.classes)

    @property
    def margin(self) -> int:
        """The device's memory that is left; negative where the run does not fit."""
        return int(self.device.memory_bytes) - self.peak


def plan_run(
    loaded: "LoadedConfig",
    layout: Layout,
    device: "Device",
    devices_per_node: int,
    *,
    measured: Sequence[Measured] = (),
    progress: Callable[[str], None],
    scope: RunScope | None = None,
) -> RunPlan:
    """The plan of a run on `layout.world` devices. Needs no device and no other process.

    measured: what a calibration measured on the device, by rising number of processes.
    scope: how long the run trains, and what it is saved to.
    """
    config, model = loaded.config, loaded.model
    saved = checkpoint_bytes(config, model, layout)
    forms = device_forms(loaded, device)
    with planning_platform(platform_of(device)) as platform:
        classes = plan_ranks(config, model, layout, platform, progress=progress)
        fullest = max(classes, key=lambda ranks: ranks.plan.peak).plan

        def changed(other: RunConfig, its_layout: Layout) -> RankPlan:
            return plan_any_rank(other, model, its_layout, fullest.rank, platform=platform)

        progress("trying what would make room")
        room = advice(config, model, layout.world, fullest.peak, changed)
        step = None
        if measured and layout.world <= measured[-1].processes:
            progress("adding up the measured kernels of a step")
            step = measured_step(config, model, layout, measured, platform=platform)
    return RunPlan(
        model=config.model.model,
        layout=layout,
        device=device,
        devices_per_node=devices_per_node,
        classes=classes,
        advice=room,
        forms=forms,
        checkpoint_bytes=saved,
        time=run_time(
            config,
            model,
            layout,
            Cluster(device=device, devices_per_node=devices_per_node, rates=rates_of(device.name)),
            ranks=[ranks.plan for ranks in classes],
            checkpoint_bytes=saved,
            scope=scope or RunScope(),
        ),
        notes=NOTES,
        measured_step=step,
    )


def device_forms(loaded: "LoadedConfig", device: "Device") -> tuple[Choice, ...]:
    """The form of every operation on the device. ConfigError where a request cannot be met."""
    settings, platform = loaded.config.kernels.settings(), platform_of(device)
    with chosen_as_on(platform, packages_of(platform, settings.attention)):
        return choices(settings, loaded.situation(platform))


def plan_ranks(
    config: RunConfig,
    model: "ModelConfig",
    layout: Layout,
    platform: MetaPlatform,
    *,
    progress: Callable[[str], None],
) -> list[RankClass]:
    """Build a rank of every class and run a step of it, inside the platform's context."""
    classes = []
    for title, stage, num_stages in stages_to_build(layout):
        progress(f"building {title}")
        # Ranks of a stage hold the same, up to the padding of buffers: the first stands for it.
        per_stage = layout.world // layout.pp
        plan = plan_any_rank(config, model, layout, stage * per_stage, platform=platform)
        classes.append(RankClass(title=title, num_ranks=num_stages * per_stage, plan=plan))
    return classes


@contextlib.contextmanager
def planning_platform(target: str = "cpu") -> Iterator[MetaPlatform]:
    """The platform on which ranks are built without a device, inside its context.

    target: type of the device that is planned for, whose forms the ranks have.
    """
    platform = MetaPlatform(target)
    platform.apply()
    with platform.context(), warnings.catch_warnings():
        # torch and megatron-core advise on the speed of a step, which is not taken here.
        warnings.simplefilter("ignore")
        yield platform


def checkpoint_bytes(config: RunConfig, model: "ModelConfig", layout: Layout) -> int:
    """Bytes of a checkpoint's tensors, see ml_train/checkpoint/tensors/sharded_state.py."""
    vocabulary = pad_vocab_size(
        model.vocab_size, config.model.make_vocab_size_divisible_by, layout.tp
    )
    parameters = count_parameters(model.replace(vocab_size=vocabulary)).total
    size = config.training.parameter_bytes
    if config.checkpoint.no_save_optim:
        return parameters * size
    # Two moments, and in a bf16 run the main parameters, all float32.
    return parameters * (size + (12 if config.training.bf16 else 8))


def stages_to_build(layout: Layout) -> list[tuple[str, int, int]]:
    """(title, stage, stages that it stands for) of the stages that differ.

    A stage between the first and the last has the same layers as its neighbours. The second stage
    stands for them all, as fewer micro batches are in flight on later stages.
    """
    if layout.pp == 1:
        return [("all ranks", 0, 1)]
    stages = [("stage 0 (embedding)", 0, 1)]
    if layout.pp == 3:
        stages.append(("stage 1", 1, 1))
    elif layout.pp > 3:
        stages.append((f"stages 1 to {layout.pp - 2}", 1, layout.pp - 2))
    return [*stages, (f"stage {layout.pp - 1} (loss)", layout.pp - 1, 1)]
