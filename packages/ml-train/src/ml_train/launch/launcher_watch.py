"""A rank ends with its launcher: after `kill -9` of torchrun nobody else would end the rank.

The rank sends itself SIGTERM. Where it trains, it saves first; elsewhere it ends at once.
"""

import contextlib
import os
import signal
import threading
import time

import psutil

from ml_train.processes import ProcessMark

LAUNCHER = "ML_TRAIN_LAUNCHER"
"""Environment variable: the number of the process without which the ranks end."""

_LOOK_SECONDS = 1.0


def end_with_launcher() -> None:
    """Watch the processes that started this one, if a launcher did."""
    pids = []
    if os.environ.get(LAUNCHER, "").isdecimal():
        pids.append(int(os.environ[LAUNCHER]))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        pids.append(os.getppid())
    if not pids:
        return
    try:
        launchers = [ProcessMark.of(pid) for pid in dict.fromkeys(pids)]
    except psutil.NoSuchProcess as error:
        _end(error.pid)
        return
    threading.Thread(target=_watch, args=(launchers,), daemon=True, name="launcher").start()


def _watch(launchers: list[ProcessMark]) -> None:
    while all(launcher.runs() is not False for launcher in launchers):
        time.sleep(_LOOK_SECONDS)
    _end(next(launcher.pid for launcher in launchers if launcher.runs() is False))


def _end(pid: int) -> None:
    # The process that read stderr may be gone as well.
    with contextlib.suppress(OSError):
        os.write(2, f"ml-train: the launcher (pid {pid}) is gone: this rank ends.\n".encode())
    os.kill(os.getpid(), signal.SIGTERM)
