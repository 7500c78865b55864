"""A signal ends a run in order: finish the step, save, leave. All ranks stop after the same step.

    SIGTERM, SIGUSR1   sent by batch systems before they kill a job (Slurm: --signal=USR1@120)
    SIGINT             Ctrl-C; a second Ctrl-C leaves at once
    SIGHUP             the terminal or the connection is gone

A signal may reach the ranks at different moments, or a single rank. After each step, and after each
batch of a validation, all ranks exchange the number of the signal that they received over a gloo
group of this module. A signal that the process was started to ignore (nohup) stays ignored.

The process ends in time even where the main thread is stuck, for example in a collective with a
dead rank. Python's signal handler writes to a wake-up descriptor, and a thread that reads it ends
the process when the time is up. Checkpoints are whole or absent, so only the last save is lost.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from typing_extensions import override

from ml_train import terminal
from ml_train.config.sections.parallel import DEFAULT_TIMEOUT
from ml_train.parallel.groups import host_group
from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
REPEAT_SECONDS = 2.0
"""A Ctrl-C within this time of the first is the same: from the terminal and from the launcher."""
PATIENCE_SECONDS = 3.0
"""After a Ctrl-C, a run that takes longer than this to leave tells what it waits for."""


_Handler = Callable[[int, FrameType | None], object] | int | None


def name_of(number: int) -> str:
    """The signal's name in messages."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class SignalCallback(Callback):
    """Turns a signal into a request to stop. Stands after CheckpointCallback in the list."""

    def __init__(self, *, limit_seconds: float, timeout: timedelta = DEFAULT_TIMEOUT):
        """limit_seconds: from the signal to the end of the process; timeout: of a collective."""
        self._timeout = timeout
        self._limit_seconds = limit_seconds
        self._received = 0
        self._group: dist.ProcessGroup | None = None
        self._previous: dict[int, _Handler] = {}
        self._previous_descriptor = -1
        self._write_end: int | None = None
        self._done = threading.Event()
        self._speaks = True

    @override
    def on_train_start(self, trainer: TrainerView) -> None:
        self._group = host_group(self._timeout, "signals")
        read_end, self._write_end = os.pipe()
        # Python refuses a wake-up descriptor that could block a signal handler.
        os.set_blocking(self._write_end, False)
        self._previous_descriptor = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in SIGNALS:
            # nohup has SIGHUP ignored so that the run outlives its terminal.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        # Ctrl-C reaches all ranks of a terminal, and a sentence from one of them is enough.
        self._speaks = dist.get_rank() == 0
        threading.Thread(target=self._watch, args=(read_end,), daemon=True, name="signals").start()

    @override
    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        self._agree(trainer)

    @override
    def on_validation_step(self, trainer: TrainerView) -> None:
        self._agree(trainer)

    def _agree(self, trainer: TrainerView) -> None:
        received = torch.tensor([self._received], dtype=torch.int32)
        dist.all_reduce(received, op=dist.ReduceOp.MAX, group=self._group)
        if int(received):
            trainer.stop_signal = int(received)
            trainer.request_stop(f"{name_of(int(received))} received")

    @override
    def on_train_end(self, trainer: TrainerView) -> None:
        self._restore()

    @override
    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # A handler may run between any two instructions of the main thread: it only keeps a number.
        self._received = max(self._received, number)

    def _watch(self, read_end: int) -> None:
        """Wait for a signal and for the end of the run; end the process where that is late."""
        first = self._first_signal(read_end)
        started, has_told = time.monotonic(), False
        while first is not None and not self._done.is_set():
            numbers = self._signals(read_end, wait_seconds=0.2)
            waited = time.monotonic() - started
            if signal.SIGINT in numbers and waited > REPEAT_SECONDS:
                self._leave(signal.SIGINT, "Ctrl-C again: leaving without saving the last steps")
            if waited > self._limit_seconds:
                self._leave(
                    first,
                    f"{self._limit_seconds:g} s after {signal.Signals(first).name} the run has not "
                    "ended; leaving without its last checkpoint",
                )
            if first == signal.SIGINT and not has_told and waited > PATIENCE_SECONDS:
                has_told = True
                self._say("Ctrl-C: the step is finished and saved; once more leaves at once")
        os.close(read_end)

    def _first_signal(self, read_end: int) -> int | None:
        """Wait for a signal of the run; None where the run ends without any."""
        while not self._done.is_set():
            numbers = self._signals(read_end, wait_seconds=None)
            if numbers:
                return numbers[0]
        return None

    def _signals(self, read_end: int, *, wait_seconds: float | None) -> list[int]:
        """Numbers of the signals that arrived, of those that this callback handles."""
        ready, _, _ = select.select([read_end], [], [], wait_seconds)
        received = os.read(read_end, 64) if ready else b""
        return [number for number in received if number in self._previous]

    def _say(self, text: str) -> None:
        if self._speaks:
            os.write(2, f"ml-train: {text}.\n".encode())

    def _leave(self, number: int, text: str) -> None:
        """End the process from this thread, wherever the main thread is."""
        # rich hides the cursor during a progress display, and is not asked again.
        show_cursor = "\x1b[?25h" if terminal.stderr_is_terminal() else ""
        with contextlib.suppress(OSError):
            os.write(2, f"{show_cursor}ml-train: {text}.\n".encode())
        os._exit(128 + number)

    def _restore(self) -> None:
        """Put the earlier handlers back. Does nothing the second time."""
        self._done.set()
        if self._write_end is None:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        # The end of the pipe wakes the thread, which then ends.
        os.close(self._write_end)
        self._write_end = None
