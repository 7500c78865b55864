"""A rank with many micro batches in flight, from steps with one and two of them.

A micro batch in flight keeps the same bytes as the one before it, so the peak is linear in their
number. A step with all of them would cost minutes in a pipeline of 16 stages.
"""

import dataclasses
from typing import TYPE_CHECKING

from ml_train.parallel.layout import Layout
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.rank_plan import RankPlan, microbatches_in_flight, plan_rank

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.config.run import RunConfig


def plan_any_rank(
    config: "RunConfig",
    model: "ModelConfig",
    layout: Layout,
    rank: int,
    *,
    platform: MetaPlatform,
) -> RankPlan:
    """What plan_rank gives, from steps of at most two micro batches where the rank has one stage.

    Stage p of pp has min(pp - p, micro batches of the step) micro batches in flight, see
    megatron-core's schedule without interleaving.
    """
    if layout.vp > 1:
        return plan_rank(config, model, layout, rank, platform=platform)
    stage = rank // (layout.world // layout.pp)
    in_flight = min(microbatches_in_flight(layout), layout.pp - stage)

    def run(num_microbatches: int) -> RankPlan:
        return plan_rank(
            config, model, layout, rank, platform=platform, num_microbatches=num_microbatches
        )

    if in_flight == 1:
        return run(1)
    second = run(2)
    if in_flight == 2:
        return second
    per_microbatch = second.activations - run(1).activations
    activations = second.activations + (in_flight - 2) * per_microbatch
    return dataclasses.replace(second, activations=activations)
