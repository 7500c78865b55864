"""The folders that a run writes: may it, does another job write there, and is there room."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from ml_train.checkpoint.directory import store
from ml_train.checkpoint.ownership import lock
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.planning.plan import checkpoint_bytes
from ml_train.planning.report import gigabytes
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.folders import fault_of_file, fault_of_folder, free_bytes
from ml_train.rehearsal.job import Job

SUBJECT = "storage"


def check(job: Job) -> Iterator[Finding]:
    """--save first, then the folders of logs."""
    config = job.loaded.config
    if config.checkpoint.save is None:
        yield wrong(
            SUBJECT,
            "Without --save no checkpoint is written: whatever ends the job ends the run.",
            fix="Give --save, and --save-interval.",
            severity="warning",
        )
    else:
        yield from _save(job, Path(config.checkpoint.save))
    yield from _logs(job)


def _save(job: Job, folder: Path) -> Iterator[Finding]:
    fault = fault_of_folder(folder)
    if fault is not None:
        yield wrong(
            SUBJECT,
            f"--save {folder} cannot be written: {fault}.",
            fix="Give a directory that can be made and written by this user.",
        )
        return
    yield from _other_job(folder)
    layout, config = job.layout, job.loaded.config
    if layout is None:
        return
    size = checkpoint_bytes(config, job.loaded.model, layout)
    first = job.state.iteration if job.state else 0
    steps = save_steps(config.checkpoint.save_interval, first, config.training.train_iters)
    there = [record.iteration for record in store.records(folder)]
    number = most_at_once(steps, config.checkpoint, there=there) - len(there)
    needed, free = number * size, free_bytes(folder)
    what = (
        f"{number} more checkpoints of {gigabytes(size)}"
        if there
        else (f"{number} checkpoints of {gigabytes(size)}")
    )
    if needed > free:
        yield wrong(
            SUBJECT,
            f"--save {folder} has {gigabytes(free)} left, and the run keeps up to {what} there at "
            f"a time, {gigabytes(needed)}.",
            fix="Make room, keep fewer with --keep-last, or choose another --save.",
        )
        return
    yield sound(SUBJECT, f"{what} at a time, of {gigabytes(free)} that are left in {folder}")


def _other_job(folder: Path) -> Iterator[Finding]:
    """Another job's mark in --save; a start would watch it, and here it is only read."""
    holder = lock.holder_of(folder)
    if holder is None or holder.lives is False:
        return
    if holder.lives:
        yield wrong(
            SUBJECT,
            f"--save {folder} is in use by another job: {holder.text}.",
            fix="Choose another --save, or end that job first.",
        )
    else:
        yield wrong(
            SUBJECT,
            f"--save {folder} may be in use by another job: {holder.text}.",
            fix="See whether that job still runs; a start watches its mark for half a minute.",
            severity="warning",
        )


def save_steps(interval: int | None, first: int, last: int) -> list[int]:
    """The steps after which a run saves that goes on after step `first`."""
    steps = list(range((first // interval + 1) * interval, last + 1, interval)) if interval else []
    # The end of a run saves as well.
    return steps if last in steps or last <= first else [*steps, last]


def most_at_once(
    steps: Sequence[int], config: CheckpointSection, *, there: Sequence[int] = ()
) -> int:
    """The most checkpoints on the disk at a time, the one that is being written included.

    there: steps of those that are there already. By the rule of store.apply_policy, which deletes
    after a save is whole.
    """
    last, every = config.keep_last, config.keep_every
    kept, most = sorted(there), len(there)
    for step in steps:
        kept.append(step)
        most = max(most, len(kept))
        if last is not None:
            older = [old for old in kept[:-last] if every is not None and old % every == 0]
            kept = [*older, *kept[-last:]]
    return most


def _logs(job: Job) -> Iterator[Finding]:
    logging = job.loaded.config.logging
    folders = {
        "--tensorboard-dir": logging.tensorboard_dir,
        "--router-logits-dir": logging.router_logits_dir,
    }
    if logging.profile and job.loaded.config.checkpoint.save is None:
        folders["--profile without --save"] = "profile"
    for flag, folder in folders.items():
        fault = fault_of_folder(Path(folder)) if folder is not None else None
        if fault is not None:
            text = f"{flag} {folder} cannot be written: {fault}."
            yield wrong(SUBJECT, text, fix="Give a folder that this user can write.")
    if logging.metrics_file is not None:
        fault = fault_of_file(Path(logging.metrics_file))
        if fault is not None:
            text = f"--metrics-file {logging.metrics_file} cannot be written: {fault}."
            yield wrong(SUBJECT, text, fix="Give a file in a folder that this user can write.")
    if logging.wandb_project is not None and find_spec("wandb") is None:
        yield wrong(
            SUBJECT,
            "--wandb-project needs the wandb package, which is not installed here.",
            fix="Run pip install wandb on the cluster, or drop the flag.",
            severity="warning",
        )
