"""A rank that never comes: what the others have queued on their devices never ends."""

import os
import threading
import time
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 120


def stop_rank(rank: int, step: int, phase: str, reports: str, *, is_this_rank: bool) -> None:
    """Stop rank `rank` in step `step` until a file is in the folder `reports`; on every rank.

    Collectives of a device are queued: the host goes on, and stands where it first needs a value.
    `phase` is forward or backward: from the first wait of that phase on the simulated device's
    queue is stuck, as a collective in it never completes. Autograd runs the backward pass of a
    device in threads of its own.
    """
    from device_names import library

    from ml_train.training.train_module import TrainModule

    train_step = TrainModule.train_step
    steps: list[None] = []

    def get_stuck(_kind: str) -> None:
        in_backward = threading.current_thread() is not threading.main_thread()
        if in_backward == (phase == "backward"):
            library.listen_to_waits(None)
            if is_this_rank:
                sleep_until_reported(Path(reports))
            library.hang()

    def stopped(self: TrainModule, *arguments: Any, **named: Any) -> Any:
        steps.append(None)
        if len(steps) == step:
            library.listen_to_waits(get_stuck)
        return train_step(self, *arguments, **named)

    TrainModule.train_step = stopped  # type: ignore[method-assign]


def sleep_until_reported(reports: Path) -> None:
    """Then the process ends, as a user would end the job."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline and not any(reports.glob("*.txt")):
        time.sleep(0.5)
    os._exit(9)
