"""Read metrics.jsonl: one run out of the lines of all its starts.

A start at step k, or a rollback to it, makes void what was written beyond k before: those steps
were done again. Half a line, as a killed process leaves it, is counted and left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, cast

from ml_train.errors import MlTrainError

NAME = "metrics.jsonl"
_NUMBERS = ("nan", "inf", "-inf")


class ReportError(MlTrainError):
    """A run whose metrics cannot be shown."""


class StartRecord(TypedDict, total=False):
    """A start of the run: ml_train.training.callbacks.files.run_facts."""

    time: str
    iteration: int
    """The step that the start went on after; 0 for the first."""
    config: dict[str, dict[str, object]]
    """Section -> setting -> value."""
    model: dict[str, object]
    num_devices: int
    versions: dict[str, str]
    warnings: list[str]


class StepsRecord(TypedDict, total=False):
    """An interval of steps: ml_train.training.callbacks.reporter.Report."""

    time: str
    iteration: int
    num_steps: int
    train_iters: int
    loss: float
    tokens_per_second_per_device: float
    model_tflops_per_device: float
    mfu: float | None
    memory_bytes: int
    step_seconds: float
    phase_seconds: dict[str, float]
    expert_load: list[list[float]]
    skipped_steps: int


class ValidationRecord(TypedDict):
    """Validation losses by name."""

    iteration: int
    losses: dict[str, float]


class EventRecord(TypedDict, total=False):
    """A skipped update, a rollback or an error."""

    kind: str
    iteration: int
    text: str


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """What is left after merging, in order of steps."""

    path: Path
    starts: list[StartRecord] = field(default_factory=list)
    """All starts, void ones included: they tell how often and where the run was resumed."""
    reports: list[StepsRecord] = field(default_factory=list)
    validations: list[ValidationRecord] = field(default_factory=list)
    errors: list[EventRecord] = field(default_factory=list)
    """All errors, of replaced steps as well."""
    events: list[EventRecord] = field(default_factory=list)
    """Skipped updates and rollbacks."""
    broken_lines: int = 0

    @property
    def resumed_at(self) -> list[int]:
        """Steps after which the run went on from a checkpoint."""
        return [start["iteration"] for start in self.starts if start["iteration"] > 0]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of a figure of the reports, from the reports that have it."""
        rows: list[Mapping[str, object]] = [
            report for report in self.reports if report.get(name) is not None
        ]
        return (
            [cast("int", row["iteration"]) for row in rows],
            [cast("float", row[name]) for row in rows],
        )

    def router_entropy(self) -> tuple[list[int], list[list[float]]]:
        """(steps, a row of entropies per layer for each step)."""
        steps, rows = self.series("router_entropy")
        return steps, cast("list[list[float]]", rows)


def read_run(run: Path) -> RunRecords:
    """Records of a directory that holds metrics.jsonl, or of such a file. Raises ReportError."""
    path = run / NAME if run.is_dir() else run
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReportError(
            f"{path} cannot be read: {error.strerror}. RUN is the --save directory of a run, or "
            "its --metrics-file."
        ) from error
    kept, broken = _merge(lines)
    if not kept["report"]:
        raise ReportError(f"{path} holds no report of a step yet.")
    events = cast("list[EventRecord]", kept["skipped"] + kept["rollback"])
    return RunRecords(
        path=path,
        starts=cast("list[StartRecord]", kept["start"]),
        reports=cast("list[StepsRecord]", kept["report"]),
        validations=cast("list[ValidationRecord]", kept["validation"]),
        errors=cast("list[EventRecord]", kept["error"]),
        events=sorted(events, key=lambda event: event["iteration"]),
        broken_lines=broken,
    )


def _merge(lines: list[str]) -> tuple[dict[str, list[dict[str, object]]], int]:
    """(records by kind without those that a later start makes void, number of broken lines)."""
    kinds = ("start", "report", "validation", "error", "skipped", "rollback")
    kept: dict[str, list[dict[str, object]]] = {kind: [] for kind in kinds}
    broken = 0
    for line in filter(str.strip, lines):
        record = _parse(line)
        if record is None:
            broken += 1
            continue
        kind, step = str(record["kind"]), _step(record)
        if kind in ("start", "resumed"):
            for void in ("report", "validation"):
                kept[void] = [earlier for earlier in kept[void] if _step(earlier) <= step]
        kept.setdefault(kind, []).append(record)
    return kept, broken


def _step(record: Mapping[str, object]) -> int:
    return cast("int", record["iteration"])


def _parse(line: str) -> dict[str, object] | None:
    """The record of a line; None for a line that is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not (isinstance(record, dict) and isinstance(record.get("iteration"), int)):
        return None
    if not isinstance(record.get("kind"), str):
        return None
    # JSON has no NaN or Inf; the writer spells them.
    return {
        key: float(value) if isinstance(value, str) and value in _NUMBERS else value
        for key, value in record.items()
    }
