"""A signal ends a run in order: finish the step, save, leave; all ranks at the same step.

    SIGTERM, SIGUSR1   batch systems send one of them before they kill (Slurm: --signal=USR1@120)
    SIGINT             Ctrl-C; a second one leaves at once
    SIGHUP             the terminal or the connection is gone

A signal may reach one rank before another, or one rank alone. After each step, and after each batch
of a validation, all ranks agree with one integer over a gloo group of their own whether any of them
has had one. One that the process was started to ignore (nohup) stays ignored.

The bound holds even where the main thread is stuck, say in a collective with a rank that is gone:
a thread watches the wake-up descriptor that Python writes to from the signal itself, and ends the
process when the time is up. Checkpoints are whole or absent, so nothing is lost but the last one.
"""

import contextlib
import os
import select
import signal
import threading
import time
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ml_train import terminal
from ml_train.config.sections.parallel import DEFAULT_TIMEOUT
from ml_train.parallel.groups import host_group
from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
REPEAT_SECONDS = 2.0
"""A launcher may pass on a Ctrl-C that this process has had from the terminal too."""
PATIENCE_SECONDS = 3.0
"""A run that has left by then after Ctrl-C needs no word in between."""


def name_of(number: int) -> str:
    """For people."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class SignalCallback(Callback):
    """Turns a signal into a request to stop. Stands after CheckpointCallback in the list."""

    def __init__(self, *, limit_seconds: float, timeout: timedelta = DEFAULT_TIMEOUT):
        """limit_seconds: from the signal to the end of the process; timeout: of a collective."""
        self._timeout = timeout
        self._limit_seconds = limit_seconds
        self._received = 0
        self._group: Any = None
        self._previous: dict[int, Any] = {}
        self._previous_descriptor = -1
        self._write_end: int | None = None
        self._done = threading.Event()
        self._speaks = True

    def on_train_start(self, trainer: TrainerView) -> None:
        self._group = host_group(self._timeout, "signals")
        read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous_descriptor = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        self._speaks = dist.get_rank() == 0
        threading.Thread(target=self._watch, args=(read_end,), daemon=True, name="signals").start()

    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        self._agree(trainer)

    def on_validation_step(self, trainer: TrainerView) -> None:
        self._agree(trainer)

    def _agree(self, trainer: TrainerView) -> None:
        received = torch.tensor([self._received], dtype=torch.int32)
        dist.all_reduce(received, op=dist.ReduceOp.MAX, group=self._group)
        if int(received):
            trainer.stop_signal = int(received)
            trainer.request_stop(f"{name_of(int(received))} received")

    def on_train_end(self, trainer: TrainerView) -> None:
        self._restore()

    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = max(self._received, number)

    def _watch(self, read_end: int) -> None:
        """Until the run has ended, or until it must: the time is up, or Ctrl-C came again."""
        first: int | None = None
        started, told = 0.0, False
        while not self._done.is_set():
            waits = None if first is None else 0.2
            ready, _, _ = select.select([read_end], [], [], waits)
            numbers = [n for n in os.read(read_end, 64) if n in self._previous] if ready else []
            now = time.monotonic()
            if first is None and numbers:
                first, started = numbers[0], now
            if first is None:
                continue
            if signal.SIGINT in numbers and now - started > REPEAT_SECONDS:
                self._leave(signal.SIGINT, "Ctrl-C again: leaving without saving the last steps")
            if now - started > self._limit_seconds:
                self._leave(
                    first,
                    f"{self._limit_seconds:g} s after {signal.Signals(first).name} the run has not "
                    "ended; leaving without its last checkpoint",
                )
            if first == signal.SIGINT and not told and now - started > PATIENCE_SECONDS:
                told = True
                self._say("Ctrl-C: the step is finished and saved; once more leaves at once")
        os.close(read_end)

    def _say(self, text: str) -> None:
        if self._speaks:
            os.write(2, f"ml-train: {text}.\n".encode())

    def _leave(self, number: int, text: str) -> None:
        """From this thread, wherever the main thread is."""
        show_cursor = "\x1b[?25h" if terminal.stderr_is_terminal() else ""
        with contextlib.suppress(OSError):
            os.write(2, f"{show_cursor}ml-train: {text}.\n".encode())
        os._exit(128 + number)

    def _restore(self) -> None:
        """Give the handlers back. Does nothing the second time."""
        self._done.set()
        if self._write_end is None:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        os.close(self._write_end)
        self._write_end = None
