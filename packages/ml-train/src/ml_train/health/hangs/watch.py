"""Watches over a rank while it waits for others: signs of life, a hang report, a bound.

    sign of life   every twentieth of the timeout (0.2 to 5 s) into the job's key-value store, over
                   a connection of its own: the step, and where the main thread stands
    hang report    by the first rank whose main thread has waited in one place for half the
                   timeout, or whose collective failed: what all ranks last said, and whose signs
                   of life have stopped; to stderr and a file
    bound          a main thread that still waits when its collective should have failed long ago,
                   or cannot leave after an error, is ended with the process

One process alone needs none of this. Clocks of different hosts are never compared.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from ml_train import terminal
from ml_train.errors import MlTrainError
from ml_train.health.hangs.hang_report import RankState, compose
from ml_train.health.hangs.stack import Place, place_of, place_of_error
from ml_train.parallel.layout import World

ANSWER_SECONDS = 3.0
"""The key-value store has this long to answer, besides the time that signs of life take."""
LEAVE_SECONDS = 20.0
"""After an error, the process has this long to leave by itself."""


class CommunicationError(MlTrainError):
    """A collective failed: another rank is gone or too late."""


@contextlib.contextmanager
def watching(
    world: World, start: str, *, timeout: timedelta, folder: Path | None
) -> Iterator["Watch | None"]:
    """Watch this rank inside the block; None where it is alone. Errors of collectives come out as
    CommunicationError, with a report. start: names this start of the job; folder: for reports,
    which go to stderr alone where it is None."""
    if world.size == 1:
        yield None
        return
    watch = Watch(world, start, timeout=timeout.total_seconds(), folder=folder)
    watch.start()
    try:
        yield watch
    except RuntimeError as error:
        text = watch.failed(error)
        if text is None:
            raise
        watch.end_soon()
        raise CommunicationError(text) from error
    finally:
        watch.stop()


class Watch:
    """Two threads: one talks to the store, which may block it; one looks at the main thread."""

    def __init__(self, world: World, start: str, *, timeout: float, folder: Path | None):
        self.step = 0
        """Set by the training loop."""
        self._world, self._timeout, self._folder = world, timeout, folder
        self._interval = min(5.0, max(0.2, timeout / 20))
        self._prefix = f"ml_train/watch/{start}"
        self._main = threading.main_thread().ident or 0
        self._place = place_of(self._main)
        self._since = time.monotonic()
        self._beats = 0
        self._failed = False
        self._stop = threading.Event()
        self._reported = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Both threads."""
        for target in (self._beat, self._guard):
            threading.Thread(target=target, daemon=True, name=target.__name__).start()

    def stop(self) -> None:
        """No more signs of life."""
        self._stop.set()

    def end_soon(self) -> None:
        """The process is about to leave with an error, for which there is a bound."""
        threading.Thread(target=self._leave, daemon=True, name="leave").start()

    def failed(self, error: BaseException) -> str | None:
        """Report if a collective failed with this error, and say so; None for other errors."""
        if not isinstance(error, RuntimeError) or error.__traceback__ is None:
            return None
        place = place_of_error(error)
        if not place.waits:
            return None
        first = _short(error)
        reason = f"rank {self._world.rank} failed in {place.text}: {first}"
        with self._lock:
            self._place, self._failed = place, True
        self._report(reason)
        return f"Step {self.step}: {reason}"

    def _guard(self) -> None:
        while not self._stop.wait(self._interval):
            place = place_of(self._main)
            now = time.monotonic()
            with self._lock:
                if self._failed:
                    return
                if place.identity != self._place.identity:
                    self._since = now
                    self._reported.clear()
                self._place = place
            waited = now - self._since
            if not place.waits:
                continue
            if waited > self._timeout / 2 and not self._reported.is_set():
                reason = (
                    f"rank {self._world.rank} has waited for {waited:.1f} s in {place.text}; after "
                    f"{self._timeout:g} s (--distributed-timeout-minutes) it fails"
                )
                # In a thread of its own: the store may hang as well, and the bound must hold.
                threading.Thread(target=self._report, args=(reason,), daemon=True).start()
            if place.number is not None and waited > 1.1 * self._timeout + LEAVE_SECONDS:
                self._end(f"it still waits after {waited:.0f} s in {place.text}")

    def _leave(self) -> None:
        time.sleep(LEAVE_SECONDS)
        self._end(f"it could not leave within {LEAVE_SECONDS:g} s after an error")

    def _end(self, why: str) -> None:
        os.write(2, f"ml-train: rank {self._world.rank} is ended: {why}.\n".encode())
        os._exit(1)

    def _beat(self) -> None:
        store = self._connect()
        while not self._stop.is_set():
            self._beats += 1
            try:
                store.set(self._key(self._world.rank), json.dumps(self._said()))
            except (RuntimeError, ValueError):
                return  # the store went with its process: reports say so
            self._stop.wait(self._interval)

    def _said(self) -> dict[str, Any]:
        with self._lock:
            place: Place = self._place
            seconds = time.monotonic() - self._since
        return {
            "beat": self._beats,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "step": self.step,
            "text": place.text,
            "waits": place.waits,
            "group": place.group,
            "ranks": list(place.ranks),
            "seconds": seconds,
        }

    def _report(self, reason: str) -> None:
        """Once for each wait, and by one rank only."""
        if self._reported.is_set():
            return
        self._reported.set()
        found: list[list[RankState] | None] = []
        # In a thread of its own: a store whose process is stopped never answers.
        asking = threading.Thread(target=self._collect, args=(found,), daemon=True)
        asking.start()
        asking.join(2 * self._interval + 0.5 + ANSWER_SECONDS)
        if not found:
            reason += (
                ". The job's key-value store does not answer: the process that holds it hangs or "
                "is gone, and what other ranks do is not known"
            )
            found.append([RankState(rank=self._world.rank, said=self._said(), alive=True)])
        if found[0] is not None:
            self._publish(compose(reason, found[0]))

    def _collect(self, found: list[list[RankState] | None]) -> None:
        """All ranks' states, or None where another rank reports; nothing where the store fails."""
        own = self._world.rank
        with contextlib.suppress(RuntimeError, ValueError):
            store = self._connect()
            if store.add(f"{self._prefix}/reporter/{self.step}", 1) > 1:
                found.append(None)
                return
            before = self._read(store)
            time.sleep(2 * self._interval + 0.5)
            states = []
            for rank, said in enumerate(self._read(store)):
                beaten = said is not None and said["beat"] != (before[rank] or {}).get("beat")
                states.append(RankState(rank=rank, said=said, alive=beaten))
            states[own] = RankState(rank=own, said=self._said(), alive=True)
            found.append(states)

    def _publish(self, text: str) -> None:
        terminal.alarm(text)
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"step_{self.step:07d}_rank_{self._world.rank:05d}_{int(time.time())}.txt"
            (self._folder / name).write_text(text + "\n", encoding="utf-8")

    def _read(self, store: Any) -> list[dict[str, Any] | None]:
        found: list[dict[str, Any] | None] = []
        for rank in range(self._world.size):
            key = self._key(rank)
            found.append(json.loads(store.get(key)) if store.check([key]) else None)
        return found

    def _connect(self) -> Any:
        """A connection of its own: a call that waits would hold up others on the same one."""
        import torch

        return torch._C._distributed_c10d.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(5.0, 3 * self._interval)),
        )

    def _key(self, rank: int) -> str:
        return f"{self._prefix}/rank/{rank}"


def _short(error: BaseException) -> str:
    """The first line, without gloo's advice."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.partition(" This is typically")[0].rstrip(".")
