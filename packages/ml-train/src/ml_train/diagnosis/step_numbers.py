"""Loss, auxiliary loss and gradient norm of each step of a run, and how far two runs differ."""

import json
import math
import sys
from pathlib import Path
from typing import NamedTuple


class StepNumbers(NamedTuple):
    """What two runs of the same recipe must agree in at a step; 0 where a run has no such loss."""

    loss: float
    aux_loss: float
    grad_norm: float


def read_step_numbers(path: Path) -> dict[int, StepNumbers]:
    """Step -> numbers, from the metrics file of a run with --log-interval 1."""
    numbers = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "iteration" in record and "grad_norm" in record:
            values = (float(record.get(name) or 0.0) for name in StepNumbers._fields)
            numbers[int(record["iteration"])] = StepNumbers(*values)
    return numbers


def relative_difference(value: float, other: float) -> float:
    """|value - other| / |value|; infinite where either is not finite, 0 where they are equal."""
    if not (math.isfinite(value) and math.isfinite(other)):
        return math.inf
    if value == other:
        return 0.0
    # The smallest normal number stands for 0, by which nothing can be divided.
    return abs(value - other) / max(abs(value), sys.float_info.min)
