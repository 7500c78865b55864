"""When each stage of a pipeline computes which micro batch: megatron-core's schedules, in units.

Without virtual stages it is the schedule with a forward pass and a backward pass in turn (1F1B).
With them it is the interleaved schedule, whose virtual stages take turns every PP micro batches
(Narayanan et al., arXiv 2104.04473, section 2.2).
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Pass:
    """A forward or backward pass of a micro batch through a virtual stage."""

    stage: int
    chunk: int
    """Number of the virtual stage on its rank."""
    microbatch: int
    backward: bool
    start: float
    end: float


Step = tuple[bool, int, int]
"""(is a backward pass, chunk, micro batch)."""


def order_of(stage: int, pp: int, vp: int, num_microbatches: int) -> list[Step]:
    """The passes of a rank in order. With virtual stages micro batches are a multiple of pp."""
    total = num_microbatches * vp
    if vp == 1:
        before = pp - stage - 1
    else:
        before = 2 * (pp - stage - 1) + (vp - 1) * pp
    warm_up = min(before, total)
    forward = [_turn(number, pp, vp) for number in range(total)]
    backward = [(True, vp - 1 - chunk, microbatch) for chunk, microbatch in forward]
    steps: list[Step] = [(False, *turn) for turn in forward[:warm_up]]
    for turn, back in zip(forward[warm_up:], backward, strict=False):
        steps += [(False, *turn), back]
    return [*steps, *backward[total - warm_up :]]


def _turn(number: int, pp: int, vp: int) -> tuple[int, int]:
    """(chunk, micro batch) of a rank's forward pass number `number`."""
    if vp == 1:
        return 0, number
    group, inside = divmod(number, pp * vp)
    chunk, member = divmod(inside, pp)
    return chunk, group * pp + member


def timeline(
    pp: int, vp: int, num_microbatches: int, *, forward: float, backward: float
) -> list[Pass]:
    """All passes of a step. `forward` and `backward` are the times of a stage's virtual stages.

    Sending takes no time, and all stages take as long.
    """
    waiting = {stage: order_of(stage, pp, vp, num_microbatches) for stage in range(pp)}
    free = dict.fromkeys(range(pp), 0.0)
    ends: dict[tuple[int, Step], float] = {}
    passes = []
    while any(waiting.values()):
        for stage, steps in waiting.items():
            while steps and (ready := _ready(stage, steps[0], pp, vp, ends)) is not None:
                step = steps.pop(0)
                start = max(free[stage], ready)
                free[stage] = start + (backward if step[0] else forward) / vp
                ends[stage, step] = free[stage]
                passes.append(Pass(stage, step[1], step[2], step[0], start, free[stage]))
    return passes


def _ready(
    stage: int, step: Step, pp: int, vp: int, ends: dict[tuple[int, Step], float]
) -> float | None:
    """When the input of a pass is there; None where it is not yet known."""
    times = [ends.get(needed) for needed in _needs(stage, step, pp, vp)]
    known = [time for time in times if time is not None]
    return max(known, default=0.0) if len(known) == len(times) else None


def _needs(stage: int, step: Step, pp: int, vp: int) -> Iterator[tuple[int, Step]]:
    is_backward, chunk, microbatch = step
    toward = 1 if is_backward else -1
    other, other_chunk = stage + toward, chunk
    if not 0 <= other < pp:
        other, other_chunk = other % pp, chunk + toward
    if 0 <= other_chunk < vp:
        yield other, (is_backward, other_chunk, microbatch)
    elif is_backward:
        yield stage, (False, chunk, microbatch)
