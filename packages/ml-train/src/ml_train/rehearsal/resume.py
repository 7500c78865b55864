"""The checkpoint that a run begins with: is it whole, of this model, and for this layout?"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ml_train.checkpoint import load
from ml_train.checkpoint.directory import integrity, store
from ml_train.checkpoint.ownership import find
from ml_train.checkpoint.ownership.start import Start, decide
from ml_train.config.sections.kernels import KernelsSection
from ml_train.errors import CheckpointError
from ml_train.planning.fake_groups import rank_of
from ml_train.planning.plan import planning_platform, stages_to_build
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.job import Job
from ml_train.training.train_module import TrainModule

SUBJECT = "checkpoint"
_ANOTHER = "Give another checkpoint, or copy this one again from where it is whole."


def check(job: Job) -> Iterator[Finding]:
    """By the rules of a start, without a process group and without writing."""
    config = job.loaded.config.checkpoint
    try:
        start = decide(config, job.loaded.values())
    except (CheckpointError, OSError) as error:
        yield wrong(SUBJECT, error, fix="Choose another --load or --save.")
        return
    if not start.candidates:
        yield sound(SUBJECT, start.note or "the run starts fresh")
        return
    folder = None
    for finding, whole in _candidates(job, start):
        folder = folder or whole
        if finding is not None:
            yield finding
    if folder is None:
        return
    fault = load.fault_of_model(folder, job.loaded.model)
    if fault is not None:
        yield wrong(
            SUBJECT,
            f"{folder} cannot be loaded: {fault}.",
            fix="Give a checkpoint of this model, or the flags of the checkpoint's.",
        )
        return
    yield from _steps_left(job, start, folder)
    yield from _layout(job, start, folder)
    yield sound(SUBJECT, f"{start.note} {folder} is whole and of this model".strip())


def _candidates(job: Job, start: Start) -> Iterator[tuple[Finding | None, Path | None]]:
    """(finding, None) of each damaged checkpoint, then (None, the first that is whole)."""
    config = job.loaded.config.checkpoint
    passed_over: dict[Path, str] = {}
    for path in start.candidates:
        job.progress(f"reading {path}")
        faults = integrity.faults(path, checksums=not config.no_verify_checksums)
        if not faults:
            for newer, text in passed_over.items():
                what = f"{newer} cannot be used: {text}."
                fix = f"The run would go on from {path}. Copy the newer one again if it is wanted."
                yield wrong(SUBJECT, what, fix=fix, severity="warning"), None
            yield None, path
            return
        passed_over[path] = "; ".join(faults[:3])
    error = find.none_whole(start.candidates, start.named, list(passed_over.values()))
    yield wrong(SUBJECT, error, fix=_ANOTHER), None


def _steps_left(job: Job, start: Start, folder: Path) -> Iterator[Finding]:
    counts_on = start.own or not (start.weights_only or job.loaded.config.checkpoint.no_load_optim)
    iteration = store.record_of(folder).iteration if counts_on else 0
    total = job.loaded.config.training.train_iters
    if iteration >= max(total, 1):
        yield wrong(
            SUBJECT,
            f"{folder} holds step {iteration} of --train-iters {total}: nothing is left to train.",
            fix="Raise --train-iters.",
        )


def _layout(job: Job, start: Start, folder: Path) -> Iterator[Finding]:
    """Every kind of rank asks whether the checkpoint has what it loads."""
    layout, loaded = job.layout, job.loaded
    if layout is None:
        return
    section = loaded.config.checkpoint
    if start.weights_only:
        section = dataclasses.replace(section, no_load_optim=True)
    config = dataclasses.replace(loaded.config, kernels=KernelsSection())
    with planning_platform() as platform:
        for title, stage, _ in stages_to_build(layout):
            job.progress(f"loading on {title}")
            with rank_of(layout, stage * (layout.world // layout.pp), platform), platform.device:
                module = TrainModule.build(config, loaded.model, layout, platform)
                fault = load.fault_of_run(module, folder, section, own=start.own)
            if fault is not None:
                yield wrong(SUBJECT, f"{folder} cannot be loaded: {fault}.", fix=_ANOTHER)
                return
