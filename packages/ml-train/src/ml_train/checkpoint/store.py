"""The directory of checkpoints: which are there, which are whole, which are to be kept.

SAVE/iter_0000010/        whole: it was renamed from .tmp once everything was on the disk
SAVE/iter_0000020.tmp/    being written, or left by a process that died while writing
SAVE/iter_0000010.old/    about to be replaced or deleted
"""

import os
import re
import shutil
from pathlib import Path

from ml_train.checkpoint import disk

_NAME = re.compile(r"^iter_(\d{7,})$")
PARTIAL, OUTGOING = ".tmp", ".old"


def folder_of(directory: Path, iteration: int) -> Path:
    """Final name of the checkpoint of one step."""
    return directory / f"iter_{iteration:07d}"


def iteration_of(path: Path) -> int | None:
    """The step in a checkpoint's name, None for any other name."""
    match = _NAME.match(path.name)
    return int(match.group(1)) if match else None


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoints under their final names, newest first."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if iteration_of(path) is not None]
    return sorted(found, key=lambda path: iteration_of(path) or 0, reverse=True)


def partial_saves(directory: Path) -> list[Path]:
    """What processes that died while saving have left."""
    if not directory.is_dir():
        return []
    return sorted(directory.glob(f"iter_*{PARTIAL}"))


def begin(directory: Path, iteration: int) -> Path:
    """An empty folder under the temporary name. Takes away what dead processes left. OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    recover(directory)
    for left in partial_saves(directory):
        shutil.rmtree(left)
    folder = folder_of(directory, iteration)
    partial = folder.with_name(folder.name + PARTIAL)
    partial.mkdir()
    return partial


def publish(partial: Path) -> Path:
    """Give a complete folder its final name; an older one of the same step goes. OSError."""
    folder = partial.with_name(partial.name.removesuffix(PARTIAL))
    disk.flush_folder(partial)
    outgoing = folder.with_name(folder.name + OUTGOING)
    if folder.exists():
        os.rename(folder, outgoing)
    os.rename(partial, folder)
    disk.flush_folder(folder.parent)
    shutil.rmtree(outgoing, ignore_errors=True)
    return folder


def discard(partial: Path) -> None:
    """Take away a save that failed."""
    shutil.rmtree(partial, ignore_errors=True)


def apply_policy(directory: Path, *, keep_last: int | None, keep_every: int | None) -> list[Path]:
    """Delete what the policy does not keep; returns what was deleted."""
    if keep_last is None:
        return []
    outdated = []
    for path in checkpoints(directory)[keep_last:]:
        if keep_every is None or (iteration_of(path) or 0) % keep_every:
            outdated.append(path)
    for path in outdated:
        outgoing = path.with_name(path.name + OUTGOING)
        os.rename(path, outgoing)
        shutil.rmtree(outgoing, ignore_errors=True)
    return outdated


def recover(directory: Path) -> None:
    """A process may have died between the two renames of publish(), or while deleting."""
    for outgoing in directory.glob(f"iter_*{OUTGOING}"):
        folder = outgoing.with_name(outgoing.name.removesuffix(OUTGOING))
        replaced = folder.with_name(folder.name + PARTIAL)
        if not folder.exists() and replaced.exists():
            os.rename(outgoing, folder)
        else:
            shutil.rmtree(outgoing, ignore_errors=True)
