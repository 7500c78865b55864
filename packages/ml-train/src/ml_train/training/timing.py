"""Where a step's time goes: the clock that megatron-core's schedules and optimizers call.

They time their parts through `config.timers(name, log_level).start() / .stop()`. StepTimers is
such an object; it adds the names up to five phases. On a device that runs behind the host the
parts are what the host waited for, unless synchronize is given.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES = ("data", "forward", "backward", "communication", "optimizer")


def phase_of(name: str) -> str | None:
    """The phase that one of megatron-core's timers belongs to; None for those that enclose others.

    forward-compute, backward-compute, forward-recv, backward-send-forward-recv, all-grads-sync,
    optimizer-inner-step, ...
    """
    if name in PHASES:
        return name
    if name in ("forward-compute", "backward-compute"):
        return name.partition("-")[0]
    if name.startswith("optimizer"):
        return "optimizer"
    if "send" in name or "recv" in name or "grads" in name or "params-all-gather" in name:
        return "communication"
    return None


class StepTimers:
    """Seconds per phase since the last collect()."""

    def __init__(self, synchronize: Callable[[], None] | None = None):
        self._synchronize = synchronize
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._timers: dict[str, _Timer] = {}

    def __call__(self, name: str, log_level: int | None = None) -> "_Timer":
        """megatron-core's way in."""
        if name not in self._timers:
            self._timers[name] = _Timer(self, phase_of(name))
        return self._timers[name]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Our own way in: with timers.phase("data")."""
        timer = self(name)
        timer.start()
        try:
            yield
        finally:
            timer.stop()

    def now(self) -> float:
        """Seconds of a steady clock, after the device has caught up where asked for."""
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter()

    def add(self, phase: str, seconds: float) -> None:
        """Add to a phase."""
        self._seconds[phase] += seconds

    def collect(self) -> dict[str, float]:
        """Seconds per phase, which start anew."""
        found, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return found


class _Timer:
    """One name. Inside another timed phase its time is taken from that phase."""

    def __init__(self, owner: StepTimers, phase: str | None):
        self._owner, self._phase = owner, phase
        self._started: float | None = None

    def start(self, barrier: bool = False) -> None:
        """Begin; barrier is part of megatron-core's interface and not honoured."""
        if self._phase is not None:
            self._owner._open.append(self._phase)
            self._started = self._owner.now()

    def stop(self, barrier: bool = False) -> None:
        """End."""
        if self._phase is None or self._started is None:
            return
        seconds = self._owner.now() - self._started
        self._started = None
        self._owner._open.pop()
        self._owner.add(self._phase, seconds)
        if self._owner._open:
            self._owner.add(self._owner._open[-1], -seconds)
