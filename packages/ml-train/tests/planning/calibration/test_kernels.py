"""The kernels of a planned step against those that a real step dispatches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from ml_models.costs.recorder import Kernel, Recorder
from ml_models.platforms.cpu import CpuPlatform
from ml_train.config.flags import parse
from ml_train.config.load import LoadedConfig, load_config
from ml_train.parallel.layout import Layout
from ml_train.planning.calibration.kernels import RankStep, rank_step
from ml_train.planning.calibration.reference_steps import alone
from ml_train.planning.legality import layout_of
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.rank_plan import made_up_batches
from ml_train.planning.routing import choose_in
from ml_train.training.train_module import TrainModule

WORDS = (
    *("--model", "grok1-tiny", "--seq-length", "64", "--model-override", "vocab_size=1024"),
    *("hidden_size=64", "ffn_hidden_size=96", "num_layers=4", "--global-batch-size", "4"),
)


def load(*words: str, world: int) -> tuple[LoadedConfig, Layout]:
    loaded = load_config(parse([*WORDS, *words]))
    return loaded, layout_of(loaded.config, loaded.model, world)


def planned(*words: str, world: int, rank: int = 0) -> RankStep:
    loaded, layout = load(*words, world=world)
    platform = MetaPlatform()
    platform.apply()
    with platform.context():
        return rank_step(loaded.config, loaded.model, layout, rank, platform=platform)


def real_step(*words: str) -> list[Kernel]:
    """Of a step with a single micro batch on the CPU, in a world of one."""
    loaded, layout = load(*words, world=1)
    platform = CpuPlatform()
    platform.apply()
    with platform.context(), alone(layout, platform):
        module = TrainModule.build(loaded.config, loaded.model, layout, platform)
        choose_in(module.model_chunks)
        module.train_step(made_up_batches(module, 1))
        with Recorder() as recorder:
            module.train_step(made_up_batches(module, 1))
    return [kernel for kernel in recorder.kernels if kernel.kind != "communication"]


def names(kernels: Iterable[Kernel]) -> Counter[tuple[str, int]]:
    return Counter((kernel.name, kernel.flops) for kernel in kernels)


@pytest.mark.parametrize("switches", [(), ("--bf16",)])
def test_the_kernels_of_a_planned_step_are_those_of_a_real_one(switches: tuple[str, ...]) -> None:
    step = planned(*switches, world=1)
    plan = names([*step.passes.kernels, *step.once.kernels])
    real = names(real_step(*switches))
    # The norm of a plan's gradients is 0, so that nothing is clipped: a product and a copy for
    # each gradient. Numbers for the host are made differently. Everything else is equal.
    differing = (plan - real) + (real - plan)
    made = {"_to_copy", "scalar_tensor", "zeros", "ones", "arange"}
    assert {name for name, _ in differing} <= {"mul", "copy_"} | made
    assert sum(number for (name, _), number in differing.items() if name in made) < 20
    assert (real - plan)["mul", 0] == (real - plan)["copy_", 0]
    assert sum(kernel.flops for kernel in step.passes.kernels) > 0
    assert not any(kernel.flops for kernel in step.once.kernels)
