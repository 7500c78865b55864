"""Watches over a rank while it waits for others: signs of life, a hang report, a bound.

    sign of life   Every rank writes its step, and where its main thread stands, into the job's
                   key-value store: every twentieth of the timeout, at least every 5 s.
    hang report    The first rank whose main thread has waited at the same call for half the
                   timeout, or whose collective failed, reports the last sign of every rank, and
                   the ranks whose signs have stopped. The report goes to stderr and a file.
    bound          The process is ended if its main thread waits for longer than the timeout of its
                   collective and LEAVE_SECONDS, for its device twice as long, or cannot leave
                   within LEAVE_SECONDS of an error.

A single process is not watched. Each clock is compared with itself only, never with another host's.
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
from typing import Protocol

import torch

from ml_train import terminal
from ml_train.errors import MlTrainError
from ml_train.health.hangs.hang_report import RankState, SignOfLife, compose
from ml_train.health.hangs.stack import Position, position_of, position_of_error
from ml_train.parallel.layout import World

ANSWER_SECONDS = 3.0
"""How long the key-value store may take to answer, besides two intervals of signs of life."""
LEAVE_SECONDS = 20.0
"""How long the process may take to leave by itself after an error."""


class Store(Protocol):
    """What the watch uses of torch's key-value stores. Each method may raise RuntimeError."""

    def set(self, key: str, value: str, /) -> object: ...
    def get(self, key: str, /) -> bytes: ...
    def add(self, key: str, amount: int, /) -> int: ...
    def check(self, keys: list[str], /) -> bool: ...


class CommunicationError(MlTrainError):
    """A collective failed: another rank is gone or too late."""


@contextlib.contextmanager
def watching(
    world: World, start: str, *, timeout: timedelta, folder: Path | None
) -> Iterator["Watch | None"]:
    """Watch this rank inside the block. Yields None, and watches nothing, in a run of one process.

    start: the name of this start of the job. folder: where reports are written; None writes them to
    stderr alone. An error of a collective is reported and raised as CommunicationError.
    """
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
    """Two threads: one writes to the store, which may block it; one looks at the main thread."""

    def __init__(self, world: World, start: str, *, timeout: float, folder: Path | None):
        """timeout: of a collective, in seconds; the rest as for watching()."""
        self.step = 0
        """Set by the training loop."""
        self._world, self._timeout, self._folder = world, timeout, folder
        # Often enough to tell a slow rank from a dead one long before the timeout; seldom enough
        # for a store that all ranks of a large job write to.
        self._interval = min(5.0, max(0.2, timeout / 20))
        self._prefix = f"ml_train/watch/{start}"
        self._main = threading.main_thread().ident or 0
        self._position = position_of(self._main)
        self._since = time.monotonic()
        self._beats = 0
        self._failed = False
        self._stop = threading.Event()
        self._reported = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start both threads."""
        for target in (self._beat, self._guard):
            threading.Thread(target=target, daemon=True, name=target.__name__).start()

    def stop(self) -> None:
        """End both threads."""
        self._stop.set()

    def end_soon(self) -> None:
        """End the process in LEAVE_SECONDS: it is about to leave with an error, and may hang."""
        threading.Thread(target=self._leave, daemon=True, name="leave").start()

    def failed(self, error: BaseException) -> str | None:
        """Report an error of a collective, and return the sentence for the user.

        Returns None for all other errors, which are not reported.
        """
        if not isinstance(error, RuntimeError) or error.__traceback__ is None:
            return None
        position = position_of_error(error)
        # An error at a line that waits for the device may be any earlier kernel's, or memory's.
        if not position.waits or position.for_device:
            return None
        first = _short(error)
        reason = f"rank {self._world.rank} failed in {position.text}: {first}"
        with self._lock:
            self._position, self._failed = position, True
        self._report(reason)
        return f"Step {self.step}: {reason}"

    def _guard(self) -> None:
        while not self._stop.wait(self._interval):
            position = position_of(self._main)
            now = time.monotonic()
            with self._lock:
                # The rank reports where its collective failed, not where it stands since.
                if self._failed:
                    return
                if position.identity != self._position.identity:
                    self._since = now
                    self._reported.clear()
                self._position = position
            waited = now - self._since
            if not position.waits:
                continue
            if waited > self._timeout / 2 and not self._reported.is_set():
                reason = (
                    f"rank {self._world.rank} has waited for {waited:.1f} s in {position.text}; "
                    f"after {self._timeout:g} s (--distributed-timeout-minutes) it fails"
                )
                # In a thread of its own: the store may hang as well, and the bound must hold.
                threading.Thread(target=self._report, args=(reason,), daemon=True).start()
            # Where the backend numbers the collective, the timeout applies to it. The margin leaves
            # the backend the time to raise its own error, which says more.
            # A device's own timeout begins later, when its queue comes to the collective.
            factor = 2 if position.for_device else 1.1
            is_bounded = position.number is not None or position.for_device
            if is_bounded and waited > factor * self._timeout + LEAVE_SECONDS:
                self._end(f"it still waits after {waited:.0f} s in {position.text}")

    def _leave(self) -> None:
        time.sleep(LEAVE_SECONDS)
        self._end(f"it could not leave within {LEAVE_SECONDS:g} s after an error")

    def _end(self, why: str) -> None:
        # os.write and os._exit, as the main thread may hold the locks of sys.stderr and of exit.
        os.write(2, f"ml-train: rank {self._world.rank} is ended: {why}.\n".encode())
        os._exit(1)

    def _beat(self) -> None:
        store = self._connect()
        while not self._stop.is_set():
            # A count, as clocks of hosts differ: a sign is new where its count has changed.
            self._beats += 1
            try:
                store.set(self._key(self._world.rank), json.dumps(self._sign_of_life()))
            except (RuntimeError, ValueError):
                return  # The store ended with its process; a report says that it does not answer.
            self._stop.wait(self._interval)

    def _sign_of_life(self) -> SignOfLife:
        with self._lock:
            position: Position = self._position
            seconds = time.monotonic() - self._since
        return {
            "beat": self._beats,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "step": self.step,
            "text": position.text,
            "waits": position.waits,
            "group": position.group,
            "ranks": list(position.ranks),
            "seconds": seconds,
        }

    def _report(self, reason: str) -> None:
        """Write the report, once for each wait, if this rank is the first to report it."""
        if self._reported.is_set():
            return
        self._reported.set()
        answers: list[list[RankState] | None] = []
        # In a thread of its own: a store whose process is stopped never answers.
        asking = threading.Thread(target=self._collect, args=(answers,), daemon=True)
        asking.start()
        asking.join(2 * self._interval + 0.5 + ANSWER_SECONDS)
        if not answers:
            reason += (
                ". The job's key-value store does not answer: the process that holds it hangs or "
                "is gone, and what other ranks do is not known"
            )
            answers.append([self._own_state()])
        if answers[0] is not None:
            self._publish(compose(reason, answers[0]))

    def _collect(self, answers: list[list[RankState] | None]) -> None:
        """Append all ranks' states, or None where another rank reports. Append nothing where the
        store fails."""
        with contextlib.suppress(RuntimeError, ValueError):
            store = self._connect()
            # The store counts up atomically: the rank that gets 1 is the one that reports.
            if store.add(f"{self._prefix}/reporter/{self.step}", 1) > 1:
                answers.append(None)
                return
            before = self._read(store)
            # Every rank that is alive writes a sign within two intervals, however busy its host is.
            time.sleep(2 * self._interval + 0.5)
            states = [
                RankState(rank=rank, sign=sign, alive=_is_newer(sign, earlier))
                for rank, (earlier, sign) in enumerate(zip(before, self._read(store), strict=True))
            ]
            states[self._world.rank] = self._own_state()
            answers.append(states)

    def _own_state(self) -> RankState:
        return RankState(rank=self._world.rank, sign=self._sign_of_life(), alive=True)

    def _publish(self, text: str) -> None:
        terminal.alarm(text)
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            # The time keeps the reports of several starts apart.
            name = f"step_{self.step:07d}_rank_{self._world.rank:05d}_{int(time.time())}.txt"
            (self._folder / name).write_text(text + "\n", encoding="utf-8")

    def _read(self, store: Store) -> list[SignOfLife | None]:
        """The last sign of every rank."""
        keys = map(self._key, range(self._world.size))
        return [json.loads(store.get(key)) if store.check([key]) else None for key in keys]

    def _connect(self) -> Store:
        """A new connection: on a shared one a call that waits would hold up the other callers."""
        return torch._C._distributed_c10d.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(5.0, 3 * self._interval)),
        )

    def _key(self, rank: int) -> str:
        return f"{self._prefix}/rank/{rank}"


def _is_newer(sign: SignOfLife | None, earlier: SignOfLife | None) -> bool:
    return sign is not None and (earlier is None or sign["beat"] != earlier["beat"])


def _short(error: BaseException) -> str:
    """The first line, without gloo's advice."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.partition(" This is typically")[0].rstrip(".")
