"""Building the sample indexes of a run: by leading ranks, in a process outside the job."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch

from ml_train import terminal
from ml_train.data.index_cache import Piece, build_pieces, read_stamps, to_json
from ml_train.data.leaders import Placement, by_leaders, compare_nodes, gathered, together
from ml_train.errors import DataError


def ensure_indexes(pieces: Sequence[Piece], cache: Path, *, shared: bool | None) -> None:
    """Return when this node's cache has all pieces, equal on all nodes.

    shared: whether all nodes see the same cache; None finds out. Collective over the default
    group. Raises DataError on every rank when a build failed.
    """
    placement = Placement.current()
    if shared is None and placement.num_nodes > 1:
        # A cache that is whole everywhere needs no writing, not even of the probe's file. Ranks
        # that lead no node have nothing to look for.
        own = placement.local_rank > 0 or read_stamps(pieces, cache) is not None
        shared = not all(gathered(own)) and storage_is_shared(cache, placement)
    _, answers = by_leaders(
        lambda: _build(pieces, cache, in_child=placement.world_size > 1),
        purpose="to build the sample indexes",
        shared=shared is not False,
    )
    compare_nodes(answers, lambda files: files, "sample indexes")


def storage_is_shared(cache: Path, placement: Placement) -> bool:
    """Whether every node sees a file that rank 0 writes into cache. Collective."""
    if placement.num_nodes == 1:
        return True
    names = [f".probe-{uuid.uuid4().hex}"]
    torch.distributed.broadcast_object_list(names, src=0)
    probe = cache / names[0]

    def leave() -> None:
        if placement.rank == 0:
            _make(cache)
            probe.touch()

    together(leave)
    seen = gathered(_visible(probe))
    if placement.rank == 0:
        probe.unlink(missing_ok=True)
    return all(seen)


def _visible(path: Path) -> bool:
    # A network file system may show a new file late; listing the folder refreshes it.
    for _ in range(3):
        if path.parent.is_dir() and path.name in os.listdir(path.parent):
            return True
        time.sleep(0.2)
    return False


def _build(pieces: Sequence[Piece], cache: Path, *, in_child: bool) -> dict[str, str]:
    """File -> SHA-256 of all pieces, after building those that the cache lacks."""
    if read_stamps(pieces, cache) is None:
        _make(cache)
        terminal.notice(f"building sample indexes in {cache}")
        try:
            (_run_child if in_child else build_pieces)(pieces, cache)
        except OSError as error:
            raise DataError(f"The sample indexes cannot be built in {cache}: {error}.") from error
    files = read_stamps(pieces, cache)
    if files is None:
        raise DataError(f"no indexes appeared in {cache}.")
    return files


def _run_child(pieces: Sequence[Piece], cache: Path) -> None:
    # torchrun's variables would make the child take part in the job.
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
    clean = {name: value for name, value in os.environ.items() if name not in dropped}
    command = [sys.executable, "-m", "ml_train.data.index_job", str(cache)]
    done = subprocess.run(command, input=to_json(pieces), env=clean, text=True, capture_output=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"building the sample indexes ended with code {done.returncode}: {last}. Run "
            "ml-train index with the same settings to see it alone."
        )


def _make(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"The sample indexes cannot be written to {cache}: {error.strerror}. Choose another "
            "directory with --data-cache-path."
        ) from error
    if not os.access(cache, os.W_OK):
        raise DataError(
            f"The sample indexes cannot be written to {cache}: no permission. Choose another "
            "directory with --data-cache-path."
        )
