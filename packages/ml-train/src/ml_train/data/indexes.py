"""Sample indexes for all ranks: one rank builds (one per node on private storage), others wait.

Nobody waits in a collective. The builder runs a child process and publishes done or failed in
the job's key-value store; the others poll that key and say every half minute what they wait for,
so a build of hours neither runs into a group's timeout nor hides a dead builder: the child's end,
good or bad, always becomes a word in the store, and a builder that gives no sign of life any more
ends the wait.
"""

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from ml_train.data.index_job import build_indexes, read_stamp
from ml_train.data.spec import IndexSpec
from ml_train.errors import DataError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_POLL_SECONDS = 0.2
_SAY_SECONDS = 30.0
_ALIVE_SECONDS = 2.0
_SILENCE_SECONDS = 120.0
"""A builder without a sign of life for this long is taken for dead."""


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
    place = Placement.current()
    if place.world_size > 1:
        errors: list[Any] = [None] * place.world_size
        where = f"Node {place.node} ({socket.gethostname()}): " if place.num_nodes > 1 else ""
        torch.distributed.all_gather_object(errors, error and where + error)
        error = next((other for other in errors if other), None)
    if error is not None:
        raise DataError(error)
    return cast(Result, result)


def storage_is_shared(cache: Path, place: Placement) -> bool:
    """Whether every node sees a file that rank 0 writes into cache. Collective."""
    if place.num_nodes == 1:
        return True
    names: list[Any] = [f".probe-{uuid.uuid4().hex}"]
    torch.distributed.broadcast_object_list(names, src=0)
    probe = cache / names[0]

    def leave() -> None:
        if place.rank == 0:
            _make(cache)
            probe.touch()

    together(leave)
    seen: list[Any] = [None] * place.world_size
    torch.distributed.all_gather_object(seen, _visible(probe))
    if place.rank == 0:
        probe.unlink(missing_ok=True)
    return all(seen)


def _visible(path: Path) -> bool:
    # A network file system may show a new file late; listing the folder refreshes it.
    for _ in range(3):
        if path.parent.is_dir() and path.name in os.listdir(path.parent):
            return True
        time.sleep(0.2)
    return False


def ensure_indexes(spec: IndexSpec, cache: Path, *, shared: bool | None) -> None:
    """Return when this node's cache has the spec's indexes, equal on all nodes.

    Collective over the default group. Raises DataError on every rank when a build failed.
    """
    place = Placement.current()
    if place.world_size == 1:
        if read_stamp(spec, cache) is None:
            _make(cache)
            build_indexes(spec, cache)
        return
    if shared is None:
        shared = storage_is_shared(cache, place)
    builds = place.rank == 0 if shared else place.local_rank == 0
    # Every rank counts its calls alike, so the key is the same everywhere and never used twice.
    call = _store().add(f"ml_train/index/calls/{place.rank}", 1)
    key = f"ml_train/index/{call}/{0 if shared else place.node}"
    if builds:
        with signs_of_life(key):
            answer = _build(spec, cache, place)
        _store().set(key, json.dumps(answer))
    _compare(_wait(key, spec, shared), place)


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


def _build(spec: IndexSpec, cache: Path, place: Placement) -> dict[str, Any]:
    host = socket.gethostname()
    try:
        if read_stamp(spec, cache) is None:
            _make(cache)
            logger.info("building sample indexes in %s", cache)
            _run_child(spec, cache)
        files = read_stamp(spec, cache)
    except (DataError, OSError) as error:
        return {"host": host, "node": place.node, "error": str(error)}
    if files is None:
        return {"host": host, "node": place.node, "error": f"no indexes appeared in {cache}."}
    tokens = {prefix: token_digest(prefix) for prefix, *_ in spec.files}
    return {"host": host, "node": place.node, "files": files, "tokens": tokens}


def token_digest(prefix: str, blocks: int = 64) -> str:
    """SHA-256 over 4 KiB blocks spread evenly over P.bin: same data on all nodes, in no time."""
    digest = hashlib.sha256()
    path = Path(f"{prefix}.bin")
    size = path.stat().st_size
    with path.open("rb") as file:
        for block in range(blocks):
            file.seek(max(size - 4096, 0) * block // max(blocks - 1, 1))
            digest.update(file.read(4096))
    return digest.hexdigest()


def _run_child(spec: IndexSpec, cache: Path) -> None:
    # torchrun's variables would make the child take part in the job.
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
    clean = {k: v for k, v in os.environ.items() if k not in dropped}
    command = [sys.executable, "-m", "ml_train.data.index_job", str(cache)]
    done = subprocess.run(command, input=spec.to_json(), env=clean, text=True, capture_output=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"building the sample indexes ended with code {done.returncode}: {last}. Run "
            "ml-train index with the same settings to see it alone."
        )


def _wait(key: str, spec: IndexSpec, shared: bool) -> dict[str, Any]:
    start = said = heard = time.monotonic()
    where, count = "rank 0" if shared else "this node's first rank", -1
    while not _store().check([key]):
        time.sleep(_POLL_SECONDS)
        counted, now = _store().add(f"{key}/alive", 0), time.monotonic()
        if counted != count:
            count, heard = counted, now
        if now - heard > _SILENCE_SECONDS:
            raise DataError(
                f"{where} was to build the sample indexes and has given no sign of life for "
                f"{now - heard:.0f} s: it hangs or is gone. Start again; ml-train index builds "
                "them ahead of a run."
            )
        if now - said > _SAY_SECONDS:
            said = now
            logger.warning(
                "waiting since %.0f s for %s to build the sample indexes %s",
                said - start,
                where,
                spec.name(),
            )
    answer: dict[str, Any] = json.loads(_store().get(key))
    return answer


def _compare(answer: dict[str, Any], place: Placement) -> None:
    """All nodes' answers must agree. Collective; raises DataError on every rank."""
    answers: list[Any] = [None] * place.world_size
    torch.distributed.all_gather_object(answers, answer)
    for other in answers:
        if "error" in other:
            raise DataError(f"Node {other['node']} ({other['host']}): {other['error']}")
    for other in answers:
        for kind, name in (("tokens", "token files"), ("files", "sample indexes")):
            if other[kind] != answers[0][kind]:
                raise DataError(
                    f"The {name} of node {other['node']} ({other['host']}) differ from those of "
                    f"node {answers[0]['node']} ({answers[0]['host']}). Copy the .bin and .idx "
                    "again, delete the index cache there, and retry."
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
