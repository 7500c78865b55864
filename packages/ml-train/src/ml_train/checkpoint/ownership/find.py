"""Which checkpoint is loaded: the last written that is whole, with a warning for each before it.

Every rank checks its share of the files, so that checksums of a large checkpoint are read in
parallel. What Python's pickle would execute is checked before any library reads the files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from ml_train.checkpoint.directory import integrity, store
from ml_train.checkpoint.ownership import start
from ml_train.checkpoint.ownership.start import Start
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A start, and the first of its candidates that is whole."""

    start: Start
    folder: Path | None
    """None: there is nothing to load, the run starts fresh."""


def choose_start(
    config: CheckpointSection,
    settings: Mapping[str, object],
    *,
    group: dist.ProcessGroup,
    say: Callable[[str], None],
) -> Checked:
    """By the rule of ml_train.checkpoint.ownership.start. Collective. Raises CheckpointError."""
    answer: list[Start | CheckpointError | None] = [None]
    # Rank 0 alone looks at the directories: ranks that look at different moments, or through
    # different caches of a network file system, could choose differently.
    if dist.get_rank() == 0:
        try:
            if config.save is not None:
                store.recover(Path(config.save))
            answer[0] = start.decide(config, settings)
        except (CheckpointError, OSError) as error:
            answer[0] = CheckpointError(str(error))
    dist.broadcast_object_list(answer, src=0, group=group)
    chosen = answer[0]
    if isinstance(chosen, CheckpointError):
        raise chosen
    assert chosen is not None
    if chosen.note:
        say(chosen.note)
    if not chosen.candidates:
        return Checked(start=chosen, folder=None)
    folder = first_whole(chosen.candidates, chosen.named, config, group=group, say=say)
    return Checked(start=chosen, folder=folder)


def choose(
    config: CheckpointSection, *, group: dist.ProcessGroup, say: Callable[[str], None]
) -> Path | None:
    """The checkpoint that --load names, None for a fresh start. Collective.

    None only where --load is --save as well. Raises CheckpointError.
    """
    assert config.load is not None
    directory = Path(config.load)
    is_save = config.save is not None and Path(config.save).resolve() == directory.resolve()
    candidates: list[list[Path]] = [[]]
    if dist.get_rank() == 0:
        if is_save:
            store.recover(directory)
        is_checkpoint = start.is_checkpoint(directory)
        candidates[0] = [directory] if is_checkpoint else store.checkpoints(directory)
    dist.broadcast_object_list(candidates, src=0, group=group)
    paths = candidates[0]
    if paths:
        return first_whole(paths, f"--load {directory}", config, group=group, say=say)
    if is_save:
        partial = store.partial_saves(directory)
        note = f" ({len(partial)} unfinished saves ignored)" if partial else ""
        say(f"--load {directory} holds no checkpoint yet{note}: starting from step 0")
        return None
    raise CheckpointError(start.nothing_in(directory))


def first_whole(
    paths: Sequence[Path],
    named: str,
    config: CheckpointSection,
    *,
    group: dist.ProcessGroup,
    say: Callable[[str], None],
) -> Path:
    """The first of `paths` that is whole. Collective. Raises CheckpointError if none is.

    named: the flag and the value that the paths come from, for the error.
    """
    passed_over = []
    for path in paths:
        faults = faults_everywhere(path, config, group)
        if not faults:
            return path
        passed_over.append("; ".join(faults[:3]))
        if len(paths) > 1:
            say(f"WARNING: passed over {path}: {passed_over[-1]}")
    raise none_whole(paths, named, passed_over)


def none_whole(paths: Sequence[Path], named: str, faults: Sequence[str]) -> CheckpointError:
    """The error where none of `paths` is whole; faults: what is wrong with each."""
    if named.endswith(f" {paths[0]}"):
        return CheckpointError(f"{named} cannot be used: {'; '.join(faults)}.")
    return CheckpointError(
        f"{named}: none of its {len(paths)} checkpoints can be used. The newest: {faults[0]}. "
        "Give another checkpoint, or start a new run in another --save."
    )


def faults_everywhere(path: Path, config: CheckpointSection, group: dist.ProcessGroup) -> list[str]:
    """The faults of a checkpoint that all ranks together see. Collective."""
    rank, world = dist.get_rank(), dist.get_world_size()
    faults = integrity.faults(
        path, checksums=not config.no_verify_checksums, part=rank, parts=world
    )
    everywhere: list[list[str]] = [[]] * world
    dist.all_gather_object(everywhere, faults, group=group)
    return list(dict.fromkeys(fault for part in everywhere for fault in part))
