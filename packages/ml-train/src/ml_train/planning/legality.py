"""Which layouts of a number of processes are legal, and which are near to an illegal layout."""

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ml_train.config.run import RunConfig
from ml_train.config.sections.parallel import ParallelSection
from ml_train.errors import LayoutError
from ml_train.parallel.layout import Layout, make_layout

if TYPE_CHECKING:
    from ml_models.config import ModelConfig


def layout_of(config: RunConfig, model: "ModelConfig", world_size: int) -> Layout:
    """The layout of a configuration. Raises LayoutError."""
    return make_layout(
        config.parallel,
        model,
        world_size=world_size,
        micro_batch_size=config.training.micro_batch_size,
        global_batch_size=config.training.global_batch_size,
    )


def legal_layouts(
    config: RunConfig, model: "ModelConfig", world_size: int
) -> Iterator[tuple[ParallelSection, Layout]]:
    """Every legal choice of TP, PP, EP and ETP, everything else as in `config`."""
    for tp in divisors(math.gcd(model.num_query_groups, world_size)):
        for pp in divisors(world_size // tp, at_most=model.num_layers):
            for ep in divisors(model.num_experts or 1):
                # Other sizes of ETP are legal as well. These two are what Megatron's users choose.
                for etp in sorted({1, tp}):
                    parallel = dataclasses.replace(
                        config.parallel,
                        tensor_model_parallel_size=tp,
                        pipeline_model_parallel_size=pp,
                        expert_model_parallel_size=ep,
                        expert_tensor_parallel_size=etp,
                    )
                    changed = dataclasses.replace(config, parallel=parallel)
                    try:
                        yield parallel, layout_of(changed, model, world_size)
                    except LayoutError:
                        continue


def nearest_layouts(
    config: RunConfig, model: "ModelConfig", world_size: int, *, number: int = 3
) -> list[Layout]:
    """The legal layouts whose sizes differ least from those asked for, in factors of two."""
    parallel = config.parallel
    asked = (
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.expert_model_parallel_size,
        parallel.expert_tensor_size,
    )

    def distance(layout: Layout) -> float:
        sizes = (layout.tp, layout.pp, layout.ep, layout.etp)
        return sum(abs(math.log2(size / want)) for size, want in zip(sizes, asked, strict=True))

    return sorted((layout for _, layout in legal_layouts(config, model, world_size)), key=distance)[
        :number
    ]


def nearest_worlds(config: RunConfig, model: "ModelConfig", world_size: int) -> list[int]:
    """Numbers of processes below and above `world_size` that have a legal layout."""
    below = (size for size in range(world_size - 1, 0, -1) if _has_layout(config, model, size))
    above = range(world_size + 1, 2 * world_size + 1)
    worlds = [next(below, None), next((n for n in above if _has_layout(config, model, n)), None)]
    return [size for size in worlds if size is not None]


def neighbours(config: RunConfig, model: "ModelConfig", world_size: int) -> str:
    """A sentence on the legal layouts nearest to an illegal one, or on the nearest worlds."""
    nearest = nearest_layouts(config, model, world_size)
    if nearest:
        return "Nearest legal layouts: " + "; ".join(map(words, nearest)) + "."
    worlds = nearest_worlds(config, model, world_size)
    numbers = " or ".join(map(str, worlds)) or "other numbers of"
    return f"No layout of {world_size} processes is legal; {numbers} processes have some."


def _has_layout(config: RunConfig, model: "ModelConfig", world_size: int) -> bool:
    return next(legal_layouts(config, model, world_size), None) is not None


def words(layout: Layout) -> str:
    """A layout in words, such as TP4 PP2 EP2 ETP4 DP2."""
    virtual = f" VP{layout.vp}" if layout.vp > 1 else ""
    return f"TP{layout.tp} PP{layout.pp}{virtual} EP{layout.ep} ETP{layout.etp} DP{layout.dp}"


def divisors(total: int, *, at_most: int | None = None) -> list[int]:
    """Sizes that divide `total`, from 1 on; none above `at_most`."""
    largest = total if at_most is None else min(total, at_most)
    return [size for size in range(1, largest + 1) if total % size == 0]
