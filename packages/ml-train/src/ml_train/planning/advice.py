"""What would make room on the fullest rank, and how much: each change is built and run."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_train.config.run import RunConfig
from ml_train.errors import ConfigError, LayoutError
from ml_train.planning.legality import layout_of

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.parallel.layout import Layout
    from ml_train.planning.rank_plan import RankPlan

PlanRank = Callable[[RunConfig, "Layout"], "RankPlan"]
"""Plans the rank that is the fullest, under a changed configuration and its layout."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A change of settings and the room that it makes."""

    flags: str
    saved_bytes: int
    """Of the peak; negative where the change costs room."""


def advice(
    config: RunConfig, model: "ModelConfig", world_size: int, peak: int, plan: PlanRank
) -> list[Advice]:
    """Changes that lower the peak, the most helpful first."""
    changes = []
    for flags, changed in _changes(config):
        try:
            changed.check()
            layout = layout_of(changed, model, world_size)
        except (ConfigError, LayoutError):
            continue
        saved = peak - plan(changed, layout).peak
        if saved > 0:
            changes.append(Advice(flags=flags, saved_bytes=saved))
    return sorted(changes, key=lambda item: -item.saved_bytes)


def _changes(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    training, parallel, optimizer = config.training, config.parallel, config.optimizer
    if training.recompute_granularity != "full":
        yield (
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            dataclasses.replace(
                config,
                training=dataclasses.replace(
                    training,
                    recompute_granularity="full",
                    recompute_method="uniform",
                    recompute_num_layers=1,
                ),
            ),
        )
    if training.recompute_granularity is None:
        selective = dataclasses.replace(training, recompute_granularity="selective")
        yield "--recompute-granularity selective", dataclasses.replace(config, training=selective)
    if training.micro_batch_size > 1:
        half = training.micro_batch_size // 2
        halved = dataclasses.replace(training, micro_batch_size=half)
        yield f"--micro-batch-size {half}", dataclasses.replace(config, training=halved)
    if not optimizer.use_distributed_optimizer:
        sharded = dataclasses.replace(optimizer, use_distributed_optimizer=True)
        yield "--use-distributed-optimizer", dataclasses.replace(config, optimizer=sharded)
    tp = parallel.tensor_model_parallel_size
    if tp > 1 and parallel.expert_tensor_parallel_size not in (None, tp):
        shared = dataclasses.replace(parallel, expert_tensor_parallel_size=tp)
        yield f"--expert-tensor-parallel-size {tp}", dataclasses.replace(config, parallel=shared)
