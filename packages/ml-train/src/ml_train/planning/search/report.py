"""The ranking for a terminal and as a JSON document."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ml_train import tables
from ml_train.config.written import as_flags
from ml_train.planning.report import gigabytes
from ml_train.planning.search.search import Built, SearchResult
from ml_train.tables import Column

if TYPE_CHECKING:
    from rich.table import Table

    from ml_train.planning.search.space import Space

SCHEMA = 1
"""Version of the JSON document: docs/planning.md describes it."""


def ranking(result: SearchResult) -> "Table":
    """A line per built layout, the fastest first."""
    columns = [
        Column(heading=""),
        Column(heading="layout", is_text=True),
        *(
            Column(heading=name)
            for name in ("peak", "left", "step", "range", "tokens/s/device", "MFU", "bubble")
        ),
    ]
    rows = []
    for number, built in enumerate(result.best, start=1):
        time = built.timed.time
        rows.append(
            [
                str(number),
                built.timed.candidate.title,
                gigabytes(built.peak),
                gigabytes(built.margin),
                f"{time.expected:.2f} s",
                f"{time.low:.2f}-{time.high:.2f} s",
                tables.per_second(time.tokens_per_second),
                tables.percent(time.model_flops_utilisation),
                tables.percent(time.bubble_share),
            ]
        )
    return tables.make_table(columns, rows, title="The best layouts, every rank built")


def headline(result: SearchResult, space: "Space", seconds: float) -> str:
    """How many layouts were seen, and the best or what the nearest lacks."""
    seen = f"{result.seen:,} legal layouts of {space.world} devices, searched in {seconds:.0f} s."
    if result.best:
        return f"{seen} The best: {figures(result.best[0])}."
    assert result.nearest is not None
    nearest = result.nearest
    return (
        f"{seen} None fits. The nearest, {nearest.timed.candidate.title}, needs "
        f"{gigabytes(nearest.peak)} of {gigabytes(nearest.memory_bytes)}: "
        f"{gigabytes(-nearest.margin)} are missing. More devices, a shorter --seq-length or the "
        "distributed optimizer make room."
    )


def figures(built: Built) -> str:
    """A layout and what was planned of it."""
    time = built.timed.time
    return (
        f"{built.timed.candidate.title}, {gigabytes(built.peak)} of "
        f"{gigabytes(built.memory_bytes)}, {time.expected:.2f} s a step "
        f"({time.low:.2f} to {time.high:.2f}), "
        f"{tables.per_second(time.tokens_per_second)} tokens/s per device"
    )


def document(result: SearchResult, space: "Space") -> dict[str, Any]:
    """The JSON document. Sizes are bytes, times seconds."""
    return {
        "schema": SCHEMA,
        "devices": space.world,
        "devices_per_node": space.devices_per_node,
        "varied": list(space.vary),
        "seen": result.seen,
        "best": [_entry(built) for built in result.best],
        "nearest": None if result.nearest is None else _entry(result.nearest),
        "reasons": [asdict(reason) for reason in result.reasons],
    }


def _entry(built: Built) -> dict[str, Any]:
    candidate, time = built.timed.candidate, built.timed.time
    return {
        "layout": asdict(candidate.layout),
        "micro_batch_size": candidate.config.training.micro_batch_size,
        "recompute_granularity": candidate.config.training.recompute_granularity,
        "peak_bytes": built.peak,
        "margin_bytes": built.margin,
        "step_seconds": {"low": time.low, "expected": time.expected, "high": time.high},
        "parts_seconds": dict(time.parts),
        "tokens_per_second_per_device": time.tokens_per_second,
        "model_flops_utilisation": time.model_flops_utilisation,
        "flags": as_flags(candidate.config),
    }
