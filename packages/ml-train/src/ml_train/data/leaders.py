"""Work that one rank does for many: the others wait for its answer in the job's key-value store.

Nobody waits in a collective. A leader (rank 0, or the first rank of each node on private storage)
publishes its answer or its error in the store. The others poll the key of the answer and tell
every half minute what they wait for. Work of hours therefore runs into no timeout of a group. A
leader counts up a second key as long as it lives; when the count stands still, the wait ends with
an error.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch.distributed.distributed_c10d import Store

from ml_train import terminal
from ml_train.errors import DataError

Result = TypeVar("Result")

_POLL_SECONDS = 0.2
_NOTICE_SECONDS = 30.0
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


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[Result]):
    """What a leader's work came to, and on which node."""

    node: int
    host: str
    value: Result | None = None
    error: str | None = None

    def result(self) -> Result:
        """The value of work that did not fail."""
        return cast(Result, self.value)


def gathered(value: Result) -> list[Result]:
    """The values of all ranks, in the order of the ranks. Collective."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def together(step: Callable[[], Result]) -> Result:
    """Run step on every rank; when it fails on any rank, raise its DataError on all. Collective.

    Otherwise the ranks where it went well would wait for the others in the next collective.
    """
    result, error = None, None
    try:
        result = step()
    except DataError as raised:
        error = str(raised)
    placement = Placement.current()
    if placement.world_size > 1:
        node = f"Node {placement.node} ({socket.gethostname()}): "
        prefix = node if placement.num_nodes > 1 else ""
        errors = gathered(error and prefix + error)
        error = next((text for text in errors if text), None)
    if error is not None:
        raise DataError(error)
    return cast(Result, result)


def by_leaders(
    work: Callable[[], Result], *, purpose: str, shared: bool
) -> tuple[Result, list[Answer[Result]]]:
    """(result of this node's leader, answers of all ranks' leaders). Collective.

    shared: rank 0 works for all nodes; else the first rank of each node works for its node.
    purpose: what the others wait for, "to check the token files". work returns JSON values. Raises
    DataError on every rank where it failed on any node.
    """
    placement = Placement.current()
    if placement.world_size == 1:
        answer = _answer(work, placement)
        if answer.error is not None:
            raise DataError(answer.error)
        return answer.result(), [answer]
    leads = placement.rank == 0 if shared else placement.local_rank == 0
    # Every rank counts its calls alike, so the key is the same everywhere and never used twice.
    call = _store().add(f"ml_train/index/calls/{placement.rank}", 1)
    key = f"ml_train/index/{call}/{0 if shared else placement.node}"
    if leads:
        with signs_of_life(key):
            answer = _answer(work, placement)
        _store().set(key, json.dumps(vars(answer)))
    own: Answer[Result] = wait_for_answer(key, purpose, shared)
    answers = gathered(own)
    for answer in answers:
        if answer.error is not None:
            raise DataError(f"Node {answer.node} ({answer.host}): {answer.error}")
    return own.result(), answers


def compare_nodes(
    answers: Sequence[Answer[Result]], content: Callable[[Result], object], subject: str
) -> None:
    """Raise DataError where two nodes' content differs; `subject` names the files in question."""
    first = answers[0]
    for answer in answers:
        if content(answer.result()) != content(first.result()):
            raise DataError(
                f"The {subject} of node {answer.node} ({answer.host}) differ from those of "
                f"node {first.node} ({first.host}). Copy the .bin and .idx "
                "again, delete the index cache there, and retry."
            )


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


def wait_for_answer(key: str, purpose: str, shared: bool) -> Answer[Any]:
    """The answer under a key, once it is there. Raises DataError when its leader is gone."""
    start = last_notice = last_sign = time.monotonic()
    leader, count = "rank 0" if shared else "this node's first rank", -1
    while not _store().check([key]):
        time.sleep(_POLL_SECONDS)
        counted, now = _store().add(f"{key}/alive", 0), time.monotonic()
        if counted != count:
            count, last_sign = counted, now
        if now - last_sign > _SILENCE_SECONDS:
            raise DataError(
                f"{leader} was {purpose} and has given no sign of life for {now - last_sign:.0f} "
                "s: it hangs or is gone. Start again; ml-train index builds the sample indexes "
                "ahead of a run."
            )
        if now - last_notice > _NOTICE_SECONDS:
            last_notice = now
            if Placement.current().local_rank <= 1:  # The leader itself does not wait.
                terminal.warning(f"waiting since {now - start:.0f} s for {leader} {purpose}")
    return Answer(**json.loads(_store().get(key)))


def _answer(work: Callable[[], Result], placement: Placement) -> Answer[Result]:
    host = socket.gethostname()
    try:
        return Answer(node=placement.node, host=host, value=work())
    except (DataError, OSError) as error:
        return Answer(node=placement.node, host=host, error=str(error))


def _store() -> Store:
    return torch.distributed.distributed_c10d._get_default_store()
