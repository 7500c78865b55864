"""The order of passes in a pipeline, and how long it waits."""

from __future__ import annotations

import pytest

from ml_train.planning.pipeline import order_of, timeline

LAYOUTS = [(1, 1, 3), (4, 1, 2), (4, 1, 8), (3, 1, 7), (2, 2, 4), (4, 2, 8), (4, 3, 12)]


@pytest.mark.parametrize(("pp", "vp", "microbatches"), LAYOUTS)
def test_every_pass_runs_once_and_behind_its_input(pp: int, vp: int, microbatches: int) -> None:
    passes = timeline(pp, vp, microbatches, forward=1.0, backward=2.0)
    keys = {(item.stage, item.chunk, item.microbatch, item.backward): item for item in passes}
    assert len(keys) == len(passes) == 2 * pp * vp * microbatches
    for item in passes:
        virtual = item.chunk * pp + item.stage
        if not item.backward and virtual > 0:
            before = keys[(virtual - 1) % pp, (virtual - 1) // pp, item.microbatch, False]
            assert before.end <= item.start
        if item.backward:
            last = virtual == pp * vp - 1
            chunk = item.chunk if last else (virtual + 1) // pp
            stage = item.stage if last else (virtual + 1) % pp
            assert keys[stage, chunk, item.microbatch, not last].end <= item.start


@pytest.mark.parametrize(("pp", "vp", "microbatches"), [(4, 1, 8), (4, 2, 8), (4, 3, 12)])
def test_a_stage_waits_for_the_share_of_narayanan(pp: int, vp: int, microbatches: int) -> None:
    passes = timeline(pp, vp, microbatches, forward=1.0, backward=2.0)
    whole = max(item.end for item in passes)
    # Section 2.2 of arXiv 2104.04473: (pp - 1) / vp micro batches.
    assert whole == pytest.approx(3.0 * (microbatches + (pp - 1) / vp))


def test_micro_batches_in_flight_are_those_of_the_schedule() -> None:
    for stage in range(4):
        flying = most = 0
        for is_backward, _, _ in order_of(stage, 4, 1, 8):
            flying += -1 if is_backward else 1
            most = max(most, flying)
        assert most == 4 - stage
