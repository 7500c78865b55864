"""megatron-core's timers add up to phases."""

from __future__ import annotations

from ml_train.training.timing import PHASES, StepTimers, phase_of


def test_timers_put_core_names_into_phases() -> None:
    assert phase_of("forward-compute") == "forward"
    assert phase_of("backward-send-forward-recv") == "communication"
    assert phase_of("all-grads-sync") == "communication"
    assert phase_of("optimizer-inner-step") == "optimizer"
    assert phase_of("forward-backward") is None
    clock = iter(range(100))
    timers = StepTimers()
    timers.now = lambda: float(next(clock))  # type: ignore[method-assign]
    timers("forward-backward", log_level=1).start(barrier=True)
    with timers.phase("data"):
        pass
    timers("forward-compute", log_level=2).start()
    with timers.phase("communication"):
        pass
    timers("forward-compute", log_level=2).stop()
    timers("forward-backward").stop()
    seconds = timers.collect()
    assert seconds == {**dict.fromkeys(PHASES, 0.0), "data": 1, "communication": 1, "forward": 2}
    assert sum(timers.collect().values()) == 0
