"""The time of a planned run, for a terminal and for a JSON document."""

from typing import TYPE_CHECKING

from ml_train import tables
from ml_train.tables import Column

if TYPE_CHECKING:
    from rich.table import Table

    from ml_train.planning.run_time import RunTime

_MEANINGS = {
    "products": "products of matrices",
    "attention": "scores and values",
    "memory": "memory-bound kernels",
    "host": "waiting for the host",
    "tp": "messages of tensor parallelism",
    "etp": "messages of expert tensor parallelism",
    "ep": "messages of expert parallelism",
    "pp": "messages between stages",
    "imbalance": "uneven routing",
    "bubble": "pipeline's filling and draining",
    "dp": "gradients and parameters",
    "update": "optimizer",
}


def sentences(time: "RunTime") -> list[str]:
    """The time in words, a fact a line."""
    step = time.step
    low, middle, high = (time.run_seconds(end) for end in (step.low, step.expected, step.high))
    return [
        f"A step takes {_seconds(step.expected)} ({_seconds(step.low)} to {_seconds(step.high)}): "
        f"{step.tokens_per_second:,.0f} tokens/s per device, {step.model_flops_utilisation:.1%} of "
        f"the peak. The pipeline's bubble takes {step.bubble_share:.1%} of the step.",
        f"A checkpoint is saved in {_span(time.save_seconds)}, at "
        f"{time.storage_bytes_per_second / 1e9:g} GB/s per node.",
        f"{time.tokens:,} tokens take {_span(middle)} ({_span(low)} to {_span(high)}) and "
        f"{time.device_hours(step.expected):,.0f} device-hours.",
    ]


def time_table(time: "RunTime") -> "Table":
    """A line per part of the expected step."""
    columns = [
        Column(heading="part", is_text=True),
        Column(heading="seconds"),
        Column(heading="of the step"),
    ]
    rows = [
        [_MEANINGS.get(name, name), f"{seconds:.3f}", f"{seconds / time.step.expected:.1%}"]
        for name, seconds in time.step.parts.items()
    ]
    return tables.make_table(columns, rows, title=f"Time of a step on stage {time.stage}")


def document(time: "RunTime") -> dict[str, object]:
    """The object "time" of the JSON document. Times are seconds."""
    step = time.step
    seconds = {"low": step.low, "expected": step.expected, "high": step.high}
    return {
        "step_seconds": seconds,
        "tokens_per_second_per_device": step.tokens_per_second,
        "model_flops_utilisation": step.model_flops_utilisation,
        "bubble_share": step.bubble_share,
        "stage": time.stage,
        "parts": dict(step.parts),
        "save_seconds": time.save_seconds,
        "run": {
            "tokens": time.tokens,
            "steps": time.steps,
            "seconds": {name: time.run_seconds(end) for name, end in seconds.items()},
            "device_hours": time.device_hours(step.expected),
        },
        "assumptions": list(step.assumptions),
    }


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return _seconds(seconds)
