"""Work that leading ranks do for all: check the token files, build the sample indexes.

Nobody waits in a collective. A leader (rank 0, or the first rank of each node on private storage)
publishes its answer or its error in the job's key-value store; the others poll that key and say
every half minute what they wait for, so work of hours neither runs into a group's timeout nor
hides a dead leader: the end of the work, good or bad, always becomes a word in the store, and a
leader that gives no sign of life any more ends the wait.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from ml_train import terminal
from ml_train.data.pieces import Piece, build_pieces, read_stamps, to_json
from ml_train.errors import DataError

Result = TypeVar("Result")

_POLL_SECONDS = 0.2
_SAY_SECONDS = 30.0
_ALIVE_SECONDS = 2.0
_SILENCE_SECONDS = 120.0
"""A leader without a sign of life for this long is taken for dead."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where this process is: node 0..n-1, and its number on the node."""

    rank: int
    world_size: int
    node: int
    local_rank: int
    num_nodes: int

    @staticmethod
    def current() -> "Placement":
        """From torchrun's environment; without it, one node."""
        if not torch.distributed.is_initialized():
            return Placement(rank=0, world_size=1, node=0, local_rank=0, num_nodes=1)
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        return Placement(
            rank=rank,
            world_size=world,
            node=int(os.environ.get("GROUP_RANK", rank // local_world)),
            local_rank=int(os.environ.get("LOCAL_RANK", rank % local_world)),
            num_nodes=max(1, -(-world // local_world)),
        )


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()


def together(step: Callable[[], Result]) -> Result:
    """Run step on every rank; when it fails on one, raise its DataError on all. Collective.

    Otherwise the ranks where it went well would wait for the others in the next collective.
    """
    result, error = None, None
    try:
        result = step()
    except DataError as raised:
        error = str(raised)
    placement = Placement.current()
    if placement.world_size > 1:
        errors: list[Any] = [None] * placement.world_size
        node = f"Node {placement.node} ({socket.gethostname()}): "
        where = node if placement.num_nodes > 1 else ""
        torch.distributed.all_gather_object(errors, error and where + error)
        error = next((other for other in errors if other), None)
    if error is not None:
        raise DataError(error)
    return cast(Result, result)


def storage_is_shared(cache: Path, placement: Placement) -> bool:
    """Whether every node sees a file that rank 0 writes into cache. Collective."""
    if placement.num_nodes == 1:
        return True
    names: list[Any] = [f".probe-{uuid.uuid4().hex}"]
    torch.distributed.broadcast_object_list(names, src=0)
    probe = cache / names[0]

    def leave() -> None:
        if placement.rank == 0:
            _make(cache)
            probe.touch()

    together(leave)
    seen: list[Any] = [None] * placement.world_size
    torch.distributed.all_gather_object(seen, _visible(probe))
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


def by_leaders(
    work: Callable[[], dict[str, Any]], *, purpose: str, shared: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(answer of this node's leader to `work`, those of all ranks' leaders). Collective.

    shared: rank 0 works for all nodes; else the first rank of each node does. purpose: what the
    others wait for, "to check the token files". work returns JSON values. Raises DataError on every
    rank where it failed on any node.
    """
    placement = Placement.current()
    if placement.world_size == 1:
        own = _answer(work, placement)
        if "error" in own:
            raise DataError(own["error"])
        return own, [own]
    leads = placement.rank == 0 if shared else placement.local_rank == 0
    # Every rank counts its calls alike, so the key is the same everywhere and never used twice.
    call = _store().add(f"ml_train/index/calls/{placement.rank}", 1)
    key = f"ml_train/index/{call}/{0 if shared else placement.node}"
    if leads:
        with signs_of_life(key):
            answer = _answer(work, placement)
        _store().set(key, json.dumps(answer))
    own = _wait(key, purpose, shared)
    answers: list[Any] = [None] * placement.world_size
    torch.distributed.all_gather_object(answers, own)
    for other in answers:
        if "error" in other:
            raise DataError(f"Node {other['node']} ({other['host']}): {other['error']}")
    return own, answers


def _answer(work: Callable[[], dict[str, Any]], placement: Placement) -> dict[str, Any]:
    where = {"host": socket.gethostname(), "node": placement.node}
    try:
        return {**work(), **where}
    except (DataError, OSError) as error:
        return {"error": str(error), **where}


def compare_nodes(answers: list[dict[str, Any]], key: str, what: str) -> None:
    """Raise DataError where two nodes' answers differ in a key; `what` names what differs."""
    for other in answers:
        if other[key] != answers[0][key]:
            raise DataError(
                f"The {what} of node {other['node']} ({other['host']}) differ from those of "
                f"node {answers[0]['node']} ({answers[0]['host']}). Copy the .bin and .idx "
                "again, delete the index cache there, and retry."
            )


def ensure_indexes(pieces: Sequence[Piece], cache: Path, *, shared: bool | None) -> None:
    """Return when this node's cache has all pieces, equal on all nodes.

    Collective over the default group. Raises DataError on every rank when a build failed.
    """
    placement = Placement.current()
    if shared is None and placement.num_nodes > 1:
        # A cache that is whole everywhere needs no writing, not even of the probe's file.
        whole: list[Any] = [None] * placement.world_size
        own = read_stamps(pieces, cache) if placement.local_rank == 0 else {}
        torch.distributed.all_gather_object(whole, own is not None)
        shared = not all(whole) and storage_is_shared(cache, placement)
    _, answers = by_leaders(
        lambda: {"files": _build(pieces, cache, in_child=placement.world_size > 1)},
        purpose="to build the sample indexes",
        shared=shared is not False,
    )
    compare_nodes(answers, "files", "sample indexes")


def _build(pieces: Sequence[Piece], cache: Path, *, in_child: bool) -> dict[str, str]:
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


@contextmanager
def signs_of_life(key: str) -> Iterator[None]:
    """Count up in the store, from a thread of its own, for those who wait for this process."""
    ended = threading.Event()
    store = _store()

    def count() -> None:
        while not ended.is_set():
            store.add(f"{key}/alive", 1)
            ended.wait(_ALIVE_SECONDS)

    thread = threading.Thread(target=count, daemon=True, name="building")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _run_child(pieces: Sequence[Piece], cache: Path) -> None:
    # torchrun's variables would make the child take part in the job.
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
    clean = {k: v for k, v in os.environ.items() if k not in dropped}
    command = [sys.executable, "-m", "ml_train.data.index_job", str(cache)]
    done = subprocess.run(command, input=to_json(pieces), env=clean, text=True, capture_output=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"building the sample indexes ended with code {done.returncode}: {last}. Run "
            "ml-train index with the same settings to see it alone."
        )


def _wait(key: str, purpose: str, shared: bool) -> dict[str, Any]:
    start = said = heard = time.monotonic()
    where, count = "rank 0" if shared else "this node's first rank", -1
    while not _store().check([key]):
        time.sleep(_POLL_SECONDS)
        counted, now = _store().add(f"{key}/alive", 0), time.monotonic()
        if counted != count:
            count, heard = counted, now
        if now - heard > _SILENCE_SECONDS:
            raise DataError(
                f"{where} was {purpose} and has given no sign of life for {now - heard:.0f} s: it "
                "hangs or is gone. Start again; ml-train index builds the sample indexes ahead of "
                "a run."
            )
        if now - said > _SAY_SECONDS:
            said = now
            if Placement.current().local_rank <= 1:  # The leader itself does not wait.
                terminal.warning(f"waiting since {said - start:.0f} s for {where} {purpose}")
    answer: dict[str, Any] = json.loads(_store().get(key))
    return answer


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
