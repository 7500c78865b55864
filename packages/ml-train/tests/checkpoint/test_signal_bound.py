"""After a signal a process leaves in time even where its main thread cannot move."""

import os
import signal
import subprocess
import sys
import time

STUCK = """
import ctypes, torch.distributed as dist
from ml_train.training.callbacks.signals import SignalCallback
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
SignalCallback(limit_seconds=0.5).on_train_start(None)
print("ready", flush=True)
while True:
    ctypes.CDLL(None).pause()
"""


def test_the_bound_holds_while_the_main_thread_is_stuck() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - started < 10
        assert process.returncode == 128 + signal.SIGTERM
        assert "leaving without its last checkpoint" in errors
    finally:
        process.kill()
