"""Every kind of rank is built and does a step without a device; its memory against the device's."""

import dataclasses
from collections.abc import Iterator

from ml_train.config.run import RunConfig
from ml_train.config.sections.kernels import KernelsSection
from ml_train.parallel.layout import Layout
from ml_train.planning.advice import advice
from ml_train.planning.long_pipeline import plan_any_rank
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.plan import planning_platform, stages_to_build
from ml_train.planning.rank_plan import RankPlan
from ml_train.planning.report import gigabytes
from ml_train.planning.target import platform_of
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.job import Job

SUBJECT = "memory"
_FREE_SHARE = 0.1
"""Of the device's memory, for what no plan counts: driver, collectives, gaps of the allocator."""

_MORE_DEVICES = "Use more devices, or a larger --pipeline- or --tensor-model-parallel-size."


def check(job: Job) -> Iterator[Finding]:
    """A finding per kind of rank; what would make room follows from the fullest."""
    layout = job.layout
    assert layout is not None  # the table of checks asks for it
    # Forms of kernels are those of the cluster's device, which the check of layouts looks at.
    config = dataclasses.replace(job.loaded.config, kernels=KernelsSection())
    memory = int(job.cluster.device.memory_bytes)
    room: list[str] | None = None
    with planning_platform(platform_of(job.cluster.device)) as platform:
        for title, stage, num_stages in stages_to_build(layout):
            job.progress(f"building {title}")
            rank = stage * (layout.world // layout.pp)
            try:
                plan = plan_any_rank(config, job.loaded.model, layout, rank, platform=platform)
            except Exception as error:  # noqa: BLE001 (whatever ends a rank would end it there)
                text = f"Rank {rank} ({title}) cannot start: {type(error).__name__}: {error}."
                yield wrong(SUBJECT, text, fix="Change what the message names.")
                continue
            ranks = num_stages * (layout.world // layout.pp)
            used = f"{title} ({ranks} ranks) needs {gigabytes(plan.peak)} of {gigabytes(memory)}"
            if plan.peak <= (1 - _FREE_SHARE) * memory:
                yield sound(SUBJECT, used)
                continue
            if room is None:
                job.progress("trying what would make room")
                room = _room(job, config, plan, layout, platform)
            way_out = "; ".join(room) or _MORE_DEVICES
            if plan.peak > memory:
                text = f"{used}: {gigabytes(plan.peak - memory)} are missing."
                yield wrong(SUBJECT, text, fix=way_out)
            else:
                text = f"{used}: less than a tenth is left for the driver and its collectives."
                yield wrong(SUBJECT, text, fix=way_out, severity="warning")


def _room(
    job: Job, config: RunConfig, plan: RankPlan, layout: Layout, platform: MetaPlatform
) -> list[str]:
    """What makes room on the rank of `plan`, as sentences; the most helpful first."""
    model = job.loaded.model

    def changed(other: RunConfig, its_layout: Layout) -> RankPlan:
        return plan_any_rank(other, model, its_layout, plan.rank, platform=platform)

    changes = advice(config, model, layout.world, plan.peak, changed)
    return [f"{item.flags} saves {gigabytes(item.saved_bytes)}" for item in changes]
