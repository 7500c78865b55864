"""Where a step's time goes: the clock that megatron-core's schedules and optimizers call.

megatron-core times its parts by `config.timers(name, log_level).start()` and `.stop()`. StepTimers
takes these calls and adds the parts up to five phases. A device works behind the host, so a phase
is the time that the host spent in it, unless `synchronize` makes the host wait for the device.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES = ("data", "forward", "backward", "communication", "optimizer")


def phase_of(name: str) -> str | None:
    """The phase that a timer of megatron-core belongs to; None for timers that enclose others.

    Names are forward-compute, backward-compute, forward-recv, backward-send-forward-recv,
    all-grads-sync, optimizer-inner-step and so on; forward-backward encloses others.
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

    def __call__(self, name: str, **_options: object) -> "_Timer":
        """The timer called `name`, for megatron-core, whose option log_level has no effect here."""
        if name not in self._timers:
            self._timers[name] = _Timer(self, phase_of(name))
        return self._timers[name]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block, for this package: with timers.phase("data")."""
        timer = self(name)
        timer.start()
        try:
            yield
        finally:
            timer.stop()

    def now(self) -> float:
        """Seconds of a steady clock, after the device has caught up if there is a synchronize."""
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter()

    def add(self, phase: str, seconds: float) -> None:
        """Add to a phase."""
        self._seconds[phase] += seconds

    def collect(self) -> dict[str, float]:
        """Seconds per phase since the last call."""
        seconds, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return seconds


class _Timer:
    """Times the calls by the same name. Its time is subtracted from the phase that encloses it, so
    that phases add up to no more than the step."""

    def __init__(self, owner: StepTimers, phase: str | None):
        self._owner, self._phase = owner, phase
        self._started: float | None = None

    def start(self, **_options: object) -> None:
        """Begin. megatron-core's option barrier has no effect: it would change what is measured."""
        if self._phase is not None:
            self._owner._open.append(self._phase)
            self._started = self._owner.now()

    def stop(self, **_options: object) -> None:
        """End. barrier has no effect, as for start()."""
        if self._phase is None or self._started is None:
            return
        seconds = self._owner.now() - self._started
        self._started = None
        self._owner._open.pop()
        self._owner.add(self._phase, seconds)
        if self._owner._open:
            self._owner.add(self._owner._open[-1], -seconds)
