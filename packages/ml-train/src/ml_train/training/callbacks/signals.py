"""SIGTERM and SIGUSR1 end a run in order: finish the step, save, leave; all at the same step.

Batch systems send one of them some time before they kill a job (Slurm: --signal=USR1@120). A
signal may reach one rank before another, or one rank alone. After each step all ranks agree, with
one integer over a gloo group of their own, whether any of them has had one.

The bound holds even where the main thread is stuck, say in a collective with a rank that is gone:
a thread watches the wake-up descriptor that Python writes to from the signal itself, and ends the
process when the time is up. Checkpoints are whole or absent, so nothing is lost but the last one.
"""

import os
import signal
import threading
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ml_train.parallel.config import DEFAULT_TIMEOUT
from ml_train.parallel.groups import host_group
from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


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

    def on_train_start(self, trainer: TrainerView) -> None:
        self._group = host_group(self._timeout, "signals")
        read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous_descriptor = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        threading.Thread(target=self._watch, args=(read_end,), daemon=True, name="signals").start()

    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        received = torch.tensor([self._received], dtype=torch.int32)
        dist.all_reduce(received, op=dist.ReduceOp.MAX, group=self._group)
        if int(received):
            name = signal.Signals(int(received)).name
            trainer.request_stop(f"{name} received: saving after step {trainer.iteration}")

    def on_train_end(self, trainer: TrainerView) -> None:
        self._restore()

    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = max(self._received, number)

    def _watch(self, read_end: int) -> None:
        """Until one of SIGNALS comes; then until the run has ended or the time is up."""
        while True:
            numbers = os.read(read_end, 64)
            if not numbers:
                os.close(read_end)
                return
            if any(number in SIGNALS for number in numbers):
                break
        if not self._done.wait(self._limit_seconds):
            number = next(number for number in numbers if number in SIGNALS)
            os.write(
                2,
                f"ml-train: {self._limit_seconds:g} s after {signal.Signals(number).name} the run "
                "has not ended; leaving without its last checkpoint.\n".encode(),
            )
            os._exit(128 + number)
        os.close(read_end)

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
