"""The work of a step of a built rank: what it dispatched and what it asked its groups to send."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ml_train.planning.time.closed_form import stage_work
from ml_train.planning.time.facts import ModelFacts
from ml_train.planning.time.job import Job
from ml_train.planning.time.work import Messages, StepWork

if TYPE_CHECKING:
    from ml_train.planning.rank_plan import RankPlan
    from ml_train.planning.traffic import Traffic

_OF_MICROBATCHES = frozenset({"tp", "ep", "etp", "pp"})


def recorded_work(plan: "RankPlan", facts: ModelFacts, job: Job, *, fused: bool) -> StepWork:
    """The step of a planned rank.

    fused: attention, memory-bound kernels and the update are those of fused kernels, which
    closed_form.py counts. Otherwise they are the operators of this machine, as torch dispatched
    them. Products and messages are recorded in either case.
    """
    closed = stage_work(facts, job, plan.stage)
    microbatch = plan.work.microbatch
    if fused:
        microbatch = replace(closed.microbatch, products=microbatch.products)
    inside = [item for item in plan.traffic if item.parallelism in _OF_MICROBATCHES]
    once = [item for item in plan.traffic if item.parallelism in ("dp", "edp", "embedding")]
    return replace(
        closed,
        microbatch=microbatch,
        messages=tuple(_messages(inside, plan.rank, job, repeats=job.num_microbatches)),
        step_messages=tuple(_messages(once, plan.rank, job, repeats=1)),
        update=closed.update if fused else plan.work.update,
    )


def _messages(
    traffic: "Iterable[Traffic]", rank: int, job: Job, *, repeats: int
) -> "Iterable[Messages]":
    node = rank // job.devices_per_node
    for item in traffic:
        local = sum(other // job.devices_per_node == node for other in item.ranks)
        yield Messages(
            parallelism=item.parallelism,
            kind=item.kind,
            group_size=len(item.ranks),
            ranks_in_node=local,
            calls=item.calls / repeats,
            message_bytes=item.message_bytes / repeats,
        )
