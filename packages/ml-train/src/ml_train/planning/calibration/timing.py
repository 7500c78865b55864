"""How long an action takes while all processes of the machine do the same."""

import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from ml_models.platforms.base import Platform

_WINDOW_SECONDS = 0.02
"""An action is repeated for so long, and its mean counts. The time slices of a scheduler, some
milliseconds, are shorter. The fastest repetition would be that of a process which had a core for
itself, though the processes share the cores."""
_MOST_REPEATS = 1000


class Stopwatch:
    """Times actions of this process. All processes start together."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def seconds(self, action: Callable[[], object]) -> float:
        """Seconds of an action of this process alone, computed by all processes at once."""
        action()
        once = max(self._timed(action, 1), 1e-9)
        repeats = min(_MOST_REPEATS, 1 + int(_WINDOW_SECONDS / once))
        return self._mean(action, repeats)

    def seconds_together(self, action: Callable[[], object]) -> float:
        """Seconds of an action in which processes wait for each other, such as a message."""
        action()
        # All processes repeat it equally often.
        repeats = 1 + int(_WINDOW_SECONDS / max(self.slowest(self._timed(action, 1)), 1e-9))
        return self._mean(action, min(_MOST_REPEATS, repeats))

    def slowest(self, seconds: float) -> float:
        """The largest number of all processes. Collective."""
        number = torch.tensor(seconds, device=self._platform.device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return float(number)

    def _mean(self, action: Callable[[], object], repeats: int) -> float:
        dist.barrier()
        return self._timed(action, repeats) / repeats

    def issuing_share(self, action: Callable[[], object]) -> float:
        """Which share of an action's time passes before its call returns: 1 on a CPU."""
        action()
        self._platform.synchronize()
        start = time.perf_counter()
        action()
        issued = time.perf_counter()
        self._platform.synchronize()
        return (issued - start) / max(time.perf_counter() - start, 1e-9)

    def _timed(self, action: Callable[[], object], repeats: int) -> float:
        self._platform.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            action()
        self._platform.synchronize()
        return time.perf_counter() - start


def powers(first: int, factor: int, number: int) -> Sequence[int]:
    """`number` sizes from `first` on."""
    return [first * factor**power for power in range(number)]
