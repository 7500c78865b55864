"""Which checkpoint a run resumes from: the newest whole one, and why not a newer one.

Every rank checks its share of the files, so that checksums of a large checkpoint are read in
parallel. What Python's pickle would execute is checked before any library reads the files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ml_train.checkpoint import integrity, store
from ml_train.checkpoint.config import CheckpointConfig
from ml_train.errors import CheckpointError


def choose(config: CheckpointConfig, *, group: Any, say: Callable[[str], None]) -> Path | None:
    """The folder to load, None for a fresh start. Collective. Raises CheckpointError."""
    assert config.load is not None
    directory = Path(config.load)
    candidates: list[Any] = [None]
    if dist.get_rank() == 0:
        if config.save is not None and Path(config.save) == directory:
            store.recover(directory)
        candidates[0] = (_is_one(directory), store.checkpoints(directory), directory.is_dir())
    dist.broadcast_object_list(candidates, src=0, group=group)
    is_one, paths, exists = candidates[0]
    if is_one:
        faults = faults_everywhere(directory, config, group)
        if faults:
            raise CheckpointError(f"--load {directory} cannot be used: {'; '.join(faults[:3])}.")
        return directory
    passed_over = []
    for path in paths:
        faults = faults_everywhere(path, config, group)
        if not faults:
            return path
        passed_over.append("; ".join(faults[:3]))
        say(f"WARNING: passed over {path}: {'; '.join(faults[:3])}")
    if passed_over:
        raise CheckpointError(
            f"--load {directory}: none of its {len(passed_over)} checkpoints can be used. The "
            f"newest: {passed_over[0]}. Point --load elsewhere, or leave it out to start from "
            "nothing."
        )
    what = "is empty" if exists else "does not exist"
    if config.save is not None and Path(config.save) == directory:
        left = store.partial_saves(directory)
        note = f" ({len(left)} unfinished saves ignored)" if left else ""
        say(f"--load {directory} holds no checkpoint yet{note}: starting from step 0")
        return None
    raise CheckpointError(
        f"--load {directory} {what if not exists else 'holds no checkpoint'}. Only a directory "
        "that is --save as well may be empty at first."
    )


def faults_everywhere(path: Path, config: CheckpointConfig, group: Any) -> list[str]:
    """What all ranks together find wrong with a checkpoint. Collective."""
    rank, world = dist.get_rank(), dist.get_world_size()
    found = integrity.faults(path, checksums=not config.no_verify_checksums, part=rank, parts=world)
    everywhere: list[Any] = [None] * world
    dist.all_gather_object(everywhere, found, group=group)
    return list(dict.fromkeys(fault for part in everywhere for fault in part))


def _is_one(directory: Path) -> bool:
    """--load names one checkpoint, or another program's weights, and no directory of ours."""
    return (
        store.iteration_of(directory) is not None
        or (directory / "metadata.json").is_file()
        or integrity.foreign_weights(directory) is not None
    )
