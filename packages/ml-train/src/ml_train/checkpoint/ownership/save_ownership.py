"""All ranks together: may this job write to --save, and does every node see it?

Asked before the run, so that no hour of training ends at a directory that is not there. Rank 0
holds the mark of ml_train.checkpoint.ownership.lock. It may have to watch another job's mark for a
while, and meanwhile no rank waits for it in a collective.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from ml_train.checkpoint.ownership import lock
from ml_train.checkpoint.ownership.lock import SaveLock
from ml_train.errors import CheckpointError

_ASK_EVERY_SECONDS = 0.2
_SEEN_WITHIN_SECONDS = 20
"""Network storage may hide a new directory from a node that has just asked for it."""


class SaveOwnership:
    """A context in which this job alone writes to a directory. Collective at its start."""

    def __init__(self, directory: Path, *, group: dist.ProcessGroup, say: Callable[[str], None]):
        """group: gloo, all ranks."""
        self._directory = directory
        self._group = group
        self._lock = SaveLock(directory, say) if dist.get_rank() == 0 else None

    def __enter__(self) -> "SaveOwnership":
        fault: list[str | None] = [None]
        # In a thread, as acquire() may watch another job's mark for longer than the timeout of a
        # collective. All ranks ask in short collectives whether rank 0 has its answer.
        acquiring = threading.Thread(target=self._acquire, args=(fault,), daemon=True)
        if self._lock is not None:
            acquiring.start()
        while not self._ended(acquiring):
            time.sleep(_ASK_EVERY_SECONDS)
        dist.broadcast_object_list(fault, src=0, group=self._group)
        if fault[0] is None:
            everywhere: list[str | None] = [None] * dist.get_world_size()
            dist.all_gather_object(everywhere, self._unseen(), group=self._group)
            fault[0] = next((text for text in everywhere if text), None)
        if fault[0] is not None:
            self._release()
            raise CheckpointError(fault[0])
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def other_holder(self) -> str | None:
        """On rank 0: who has taken the directory over; None while it is this job's. OSError."""
        return self._lock.holder() if self._lock is not None else None

    def _acquire(self, fault: list[str | None]) -> None:
        assert self._lock is not None
        try:
            self._lock.acquire()
        except CheckpointError as error:
            fault[0] = str(error)
        except Exception as error:  # noqa: BLE001 (the other ranks wait for this one's answer)
            fault[0] = f"--save {self._directory}: {type(error).__name__}: {error}"

    def _ended(self, thread: threading.Thread) -> bool:
        done = torch.tensor([int(not thread.is_alive())])
        dist.all_reduce(done, op=dist.ReduceOp.MIN, group=self._group)
        return bool(done)

    def _unseen(self) -> str | None:
        """Why this rank could not write its part of a checkpoint; the first of each node asks."""
        if int(os.environ.get("LOCAL_RANK", "0")) != 0 or self._lock is not None:
            return None
        where = f"node {socket.gethostname()} (rank {dist.get_rank()})"
        deadline = time.monotonic() + _SEEN_WITHIN_SECONDS
        while not (self._directory / lock.NAME).exists():
            if time.monotonic() > deadline:
                return (
                    f"--save {self._directory}: {where} does not see what rank 0 has written "
                    "there. Rule: --save is on storage that all nodes share."
                )
            time.sleep(1)
        # That the mark is seen does not say that this node may write: a mount may be read-only.
        probe = self._directory / f".probe-{uuid.uuid4().hex}"
        try:
            probe.touch()
        except OSError as error:
            return f"--save {self._directory} cannot be written on {where}: {error.strerror}."
        with contextlib.suppress(OSError):
            probe.unlink()
        return None

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
