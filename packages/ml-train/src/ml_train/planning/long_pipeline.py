"""A rank with many micro batches in flight, from a step with two of them.

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
    """What plan_rank gives, from a step of at most two micro batches where the rank has one stage.

    Stage p of pp has min(pp - p, micro batches of the step) micro batches in flight, see
    megatron-core's schedule without interleaving.
    """
    if layout.vp > 1:
        return plan_rank(config, model, layout, rank, platform=platform)
    stage = rank // (layout.world // layout.pp)
    in_flight = min(microbatches_in_flight(layout), layout.pp - stage)

    plan = plan_rank(
        config, model, layout, rank, platform=platform, num_microbatches=min(in_flight, 2)
    )
    more = max(0, in_flight - 2) * plan.kept
    if layout.num_microbatches > in_flight:
        # Between two backward passes comes a forward pass then, which begins with the gradient in
        # memory that the first of them gave.
        more += plan.sent_back
    return dataclasses.replace(plan, activations=plan.activations + more)
