"""Read metrics.jsonl: one run out of the lines of all its starts.

A start at step k, or a rollback to it, makes void what was written beyond k before: those steps
were done again.
Half a line, as a killed process leaves it, is counted and passed over.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_train.errors import MlTrainError

NAME = "metrics.jsonl"
_NUMBERS = ("nan", "inf", "-inf")


class ReportError(MlTrainError):
    """A run whose metrics cannot be shown."""


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """What is left after merging, in order of steps."""

    path: Path
    starts: list[dict[str, Any]] = field(default_factory=list)
    """All starts, void ones included: they say how often and where the run was resumed."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    saves: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    """All errors, of replaced steps as well."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Skipped updates and rollbacks."""
    broken_lines: int = 0

    @property
    def resumed_at(self) -> list[int]:
        """Steps after which the run went on from a checkpoint."""
        return [start["iteration"] for start in self.starts if start["iteration"] > 0]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one figure of the reports, where it is there."""
        found = [(r["iteration"], r[name]) for r in self.reports if r.get(name) is not None]
        return [step for step, _ in found], [value for _, value in found]


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
    kept: dict[str, list[dict[str, Any]]] = {
        kind: []
        for kind in ("start", "report", "validation", "saved", "error", "skipped", "rollback")
    }
    broken = 0
    for line in filter(str.strip, lines):
        record = _parse(line)
        if record is None:
            broken += 1
            continue
        if record["kind"] in ("start", "resumed"):
            for kind in ("report", "validation", "saved"):
                kept[kind] = [r for r in kept[kind] if r["iteration"] <= record["iteration"]]
        kept.setdefault(record["kind"], []).append(record)
    if not kept["report"]:
        raise ReportError(f"{path} holds no report of a step yet.")
    return RunRecords(
        path=path,
        starts=kept["start"],
        reports=kept["report"],
        validations=kept["validation"],
        saves=kept["saved"],
        errors=kept["error"],
        events=sorted(kept["skipped"] + kept["rollback"], key=lambda event: event["iteration"]),
        broken_lines=broken,
    )


def _parse(line: str) -> dict[str, Any] | None:
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
