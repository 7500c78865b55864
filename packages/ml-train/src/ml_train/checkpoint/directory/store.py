"""The directory of checkpoints: which are there, which was written last, which are to be kept.

SAVE/iter_0000010/              whole: it was renamed from .tmp once everything was on the disk
SAVE/iter_0000020.tmp/          being written, or left by a process that died while writing
SAVE/iter_0000010.old/          about to be replaced or deleted
SAVE/iter_0000010.run-1f3a9c02/ another run's, set aside as this run saved the same step
SAVE/latest_checkpointed_iteration.txt   the step that was written last, as Megatron writes it

The order is that of writing, not of steps: every checkpoint carries the number of its save (see
identity.py). The text file is for people and other tools. It is written after the checkpoint, so a
process that dies in between loses nothing.
"""

import os
import re
import shutil
from pathlib import Path

from ml_models.files.durable import flush_folder, write_durably
from ml_models.files.integrity import COMPLETE
from ml_train.checkpoint.directory.identity import Record, RunIdentity, read_record

_NAME = re.compile(r"^iter_(\d{7,})$")
PARTIAL, OUTGOING = ".tmp", ".old"
POINTER = "latest_checkpointed_iteration.txt"


def folder_of(directory: Path, iteration: int) -> Path:
    """Final name of the checkpoint of one step."""
    return directory / f"iter_{iteration:07d}"


def iteration_of(path: Path) -> int | None:
    """The step in a checkpoint's name, None for any other name."""
    match = _NAME.match(path.name)
    return int(match.group(1)) if match else None


def records(directory: Path) -> list[Record]:
    """Checkpoints under their final names, the last written first.

    Checkpoints of version 1.0.0 have no save number: they follow the others, ordered by step.
    """
    if not directory.is_dir():
        return []
    known = []
    for path in directory.iterdir():
        iteration = iteration_of(path)
        if iteration is not None:
            known.append(read_record(path, iteration))
    return sorted(known, key=lambda record: (record.save_number, record.iteration), reverse=True)


def record_of(path: Path) -> Record:
    """What the checkpoint in `path` says of itself, whatever its folder is called."""
    return read_record(path, iteration_of(path))


def checkpoints(directory: Path) -> list[Path]:
    """The folders that the run that wrote last may go back to, as lineage() orders them."""
    known = records(directory)
    return [record.path for record in lineage(known, known[0].identity)] if known else []


def lineage(known: list[Record], identity: RunIdentity | None) -> list[Record]:
    """The checkpoints that a run may go back to, the last written first.

    They are its own, then those of the run that it branched off from, up to the step of the branch,
    and so on. `known`: as records() gives them.
    """
    run = identity.run_id if identity else None
    own = [record for record in known if record.run_id == run]
    if identity is None or identity.parent_iteration is None:
        return own
    step = identity.parent_iteration
    rest = [record for record in known if record.iteration <= step and record.run_id != run]
    parents = [record for record in rest if record.run_id == identity.parent_run]
    return own + (lineage(rest, parents[0].identity) if parents else [])


def partial_saves(directory: Path) -> list[Path]:
    """Folders that processes left that died while saving."""
    if not directory.is_dir():
        return []
    return sorted(directory.glob(f"iter_*{PARTIAL}"))


def begin(directory: Path, iteration: int) -> Path:
    """Remove what dead processes left and make an empty folder, temporarily named. OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    recover(directory)
    for abandoned in partial_saves(directory):
        shutil.rmtree(abandoned)
    folder = folder_of(directory, iteration)
    partial = folder.with_name(folder.name + PARTIAL)
    partial.mkdir()
    return partial


def publish(partial: Path) -> Path:
    """Give a complete folder its final name. OSError.

    An older checkpoint of the same run and step is replaced; another run's is set aside.
    """
    folder = partial.with_name(partial.name.removesuffix(PARTIAL))
    flush_folder(partial)
    outgoing = folder.with_name(folder.name + OUTGOING)
    if folder.exists():
        os.rename(folder, _aside(folder, partial) or outgoing)
    # A folder cannot replace another in one rename. A process that dies between the two renames
    # leaves a whole .tmp and an .old: recover() gives .tmp its name.
    os.rename(partial, folder)
    flush_folder(folder.parent)
    shutil.rmtree(outgoing, ignore_errors=True)
    return folder


def _aside(folder: Path, partial: Path) -> Path | None:
    """A free name for the checkpoint in `folder`; None if `partial` is the same run's."""
    replaced_run, saving_run = (read_record(path).run_id for path in (folder, partial))
    if replaced_run == saving_run:
        return None
    name = f"{folder.name}.run-{(replaced_run or 'unnamed')[:8]}"
    free, number = folder.with_name(name), 1
    while free.exists():
        number += 1
        free = folder.with_name(f"{name}-{number}")
    return free


def discard(partial: Path) -> None:
    """Remove a save that failed."""
    shutil.rmtree(partial, ignore_errors=True)


def next_save_number(directory: Path) -> int:
    """Larger than that of any checkpoint in the directory."""
    return max((record.save_number for record in records(directory)), default=0) + 1


def point_to(folder: Path) -> None:
    """Note the checkpoint that was written last. OSError."""
    write_durably(folder.parent / POINTER, f"{iteration_of(folder)}\n")


def apply_policy(
    directory: Path, *, keep_last: int | None, keep_every: int | None, run_id: str | None = None
) -> list[Path]:
    """Delete what the policy does not keep of the run `run_id`, and return it.

    The last written stays in any case, and so does every checkpoint of another run.
    """
    if keep_last is None:
        return []
    # The last written first, so the newest are kept whatever their steps are: after a rollback a
    # later checkpoint has an earlier step.
    own = [record for record in records(directory) if record.run_id == run_id]
    outdated = [
        record.path
        for record in own[keep_last:]
        if keep_every is None or record.iteration % keep_every
    ]
    for path in outdated:
        # Renamed first: a folder that is half deleted must not look like a checkpoint.
        outgoing = path.with_name(path.name + OUTGOING)
        os.rename(path, outgoing)
        shutil.rmtree(outgoing, ignore_errors=True)
    return outdated


def recover(directory: Path) -> None:
    """Finish what a process left that died between the renames of publish(), or while deleting."""
    for partial in partial_saves(directory):
        folder = partial.with_name(partial.name.removesuffix(PARTIAL))
        # The marker is written last: only the name is missing.
        if (partial / COMPLETE).is_file() and not folder.exists():
            os.rename(partial, folder)
    for outgoing in directory.glob(f"iter_*{OUTGOING}"):
        folder = outgoing.with_name(outgoing.name.removesuffix(OUTGOING))
        replaced = folder.with_name(folder.name + PARTIAL)
        if not folder.exists() and replaced.exists():
            os.rename(outgoing, folder)
        else:
            shutil.rmtree(outgoing, ignore_errors=True)
