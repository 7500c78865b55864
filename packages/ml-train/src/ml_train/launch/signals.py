"""A signal to the launcher is passed on to the ranks; the launcher leaves once they have saved.

torchrun kills its processes 30 s after a signal, saved or not, and starts them again where
--max-restarts allows. Here the launcher waits in the signal handler until the processes have ended
by themselves, for which ml-train's ranks have --signal-limit-seconds. A signal that the launcher
was started to ignore (nohup) stays ignored; torchrun would handle it.
"""

import contextlib
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_LIMIT_SECONDS = 600.0
"""Afterwards torchrun ends what is left: a stopped process, for instance."""
_REPEAT_SECONDS = 2.0
"""Signals that arrive within this time count as one: it may go to a process and to its group."""
_AFTER_REPEAT_SECONDS = 10.0
"""What is left of the limit after a second signal."""
_STUCK_SECONDS = 3.0
"""A main thread that has not handled a signal by then waits in native code."""

Handler = Callable[[int, FrameType | None], object] | int | None
"""What signal.signal takes and returns."""


class PassedOn:
    """A context in which signals to this process go on to its workers."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._previous: dict[int, Handler] = {}
        self._ignored: set[int] = set()
        self._first: int | None = None
        self._started, self._deadline = 0.0, 0.0
        self._codes: list[int | None] = []
        self._write_end = -1
        self._previous_descriptor = -1

    def __enter__(self) -> "PassedOn":
        # torch installs this handler for its signals when it starts the processes. All supported
        # versions of torch look it up by this name.
        name = "torch.distributed.elastic.multiprocessing.api"
        self._api = cast(Any, importlib.import_module(name))
        self._torch_handler = self._api._terminate_process_handler
        self._api._terminate_process_handler = self._handle
        read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous_descriptor = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                self._ignored.add(number)
            else:
                self._previous[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._watch, args=(read_end,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._api._terminate_process_handler = self._torch_handler
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        os.close(self._write_end)

    def exit_code(self, number: int) -> int:
        """After the signal `number`: the workers' own, where there were any."""
        known = [code for code in self._codes if code is not None]
        if not known:
            return 128 + number
        return next((code for code in known if code), 0)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Runs in the main thread. Raises torch's SignalException once no worker is left."""
        if number in self._ignored:
            return
        now = time.monotonic()
        processes = workers()
        for process in processes:
            pass_on(process, number)
        if self._first is not None:
            # This call interrupts the first one, which waits below: shorten its wait.
            if now - self._started > _REPEAT_SECONDS:
                self._deadline = min(self._deadline, now + _AFTER_REPEAT_SECONDS)
            return
        self._first, self._started = number, now
        self._deadline = now + _LIMIT_SECONDS
        if not processes:
            self._say(f"launch: {_name(number)}: ended before the processes were started")
        self._codes = [None] * len(processes)
        while None in self._codes and time.monotonic() < self._deadline:
            self._codes = [
                ended_with(process.pid) if code is None else code
                for process, code in zip(processes, self._codes, strict=True)
            ]
            time.sleep(0.05)
        if None in self._codes:
            self._say(f"launch: {self._codes.count(None)} processes did not end and are killed")
        raise self._api.SignalException(f"got {_name(number)}", sigval=signal.Signals(number))

    def _watch(self, read_end: int) -> None:
        """End a launcher that waits for other nodes in native code, where no handler runs.

        Python writes the number of every signal to the pipe, whatever the main thread does.
        """
        while numbers := os.read(read_end, 64):
            passed_on = [number for number in numbers if number in self._previous]
            if not passed_on:
                continue
            time.sleep(_STUCK_SECONDS)
            if self._first is None and not workers():
                self._say(f"launch: {_name(passed_on[0])}: ended before the processes were started")
                os._exit(128 + passed_on[0])
        os.close(read_end)


def workers() -> list[psutil.Process]:
    """The ranks that this process has started and that still run."""
    processes = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "LOCAL_RANK" in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    return processes


def pass_on(process: psutil.Process, number: int) -> None:
    """Send a signal to a worker, and to its process group where it leads that, as under torch."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)


def ended_with(pid: int) -> int | None:
    """A child's exit code as a shell gives it; None while it runs.

    WNOWAIT leaves the code where it is, so that torch gets it as well.
    """
    try:
        status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else 128 + status.si_status


def _name(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
