"""What `ml-train plan --json` foresaw beside what the run measured."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ml_train.report.records import ReportError, RunRecords, StartRecord
from ml_train.text_files import read_text

SCHEMA = 1
"""The version of the document that is read here, ml_train/planning/report.py's."""

_SIZES = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "ep": "expert_model_parallel_size",
}


@dataclass(frozen=True)
class Comparison:
    """A figure of the plan and the same figure of the run."""

    name: str
    planned: float
    measured: float
    unit: str

    @property
    def sentence(self) -> str:
        """Both figures and the difference, in shares of what was measured."""
        off = self.planned / self.measured - 1
        return (
            f"{self.name}: planned {self.planned:.4g} {self.unit}, measured "
            f"{self.measured:.4g} {self.unit}, {off:+.1%}"
        )


def read_plan(path: Path) -> dict[str, object]:
    """The document that `ml-train plan --json` printed. Raises ReportError."""
    try:
        plan = json.loads(read_text(path, "--plan"))
    except ValueError as error:
        raise ReportError(f"--plan {path} is not JSON: {error}.") from error
    if not isinstance(plan, dict) or "ranks" not in plan or "layout" not in plan:
        raise ReportError(
            f"--plan {path} is not a plan; rule: what ml-train plan --json printed, for example "
            "ml-train plan ... --json > plan.json."
        )
    if plan.get("schema") != SCHEMA:
        raise ReportError(
            f"--plan {path} has the schema {plan.get('schema')}, and this version reads {SCHEMA}. "
            "Make the plan again with this version."
        )
    return plan


def compare(plan: dict[str, object], run: RunRecords) -> list[Comparison]:
    """Figures that both have. ReportError where the plan is of another run.

    A run records the memory of rank 0 alone. Its first steps are left out: they make what later
    steps keep.
    """
    _check_same(plan, run.starts[-1] if run.starts else None)
    first = cast(list[dict[str, float]], plan["ranks"])[0]
    pairs = [Comparison("peak memory of rank 0", first["peak"] / 1e9, _memory(run) / 1e9, "GB")]
    time = cast(dict[str, dict[str, float]] | None, plan.get("time"))
    if time is not None:
        seconds = _median(run, "step_seconds")
        pairs.append(Comparison("step", time["step_seconds"]["expected"], seconds, "s"))
        speed = _median(run, "tokens_per_second_per_device")
        planned_speed = cast(float, time["tokens_per_second_per_device"])
        pairs.append(Comparison("tokens per second and device", planned_speed, speed, "tokens/s"))
    return [pair for pair in pairs if pair.measured > 0]


def _memory(run: RunRecords) -> float:
    return max((float(report.get("memory_bytes", 0)) for report in run.reports), default=0.0)


def _median(run: RunRecords, name: str) -> float:
    """Over the reports behind the first, which holds the start of the run; or of that alone."""
    _, values = run.series(name)
    return statistics.median(values[1:] or values or [0.0])


def _check_same(plan: dict[str, object], start: StartRecord | None) -> None:
    if start is None:
        return
    layout = cast(dict[str, int], plan["layout"])
    sizes = start.get("config", {}).get("parallel", {})
    pairs: list[tuple[str, object, object]] = []
    pairs.append(("world", layout["world"], start.get("num_devices")))
    pairs += [(name, layout[name], sizes.get(setting)) for name, setting in _SIZES.items()]
    model = start.get("config", {}).get("model", {}).get("model")
    differences = [
        f"{name} is {planned} in the plan and {run} in the run"
        for name, planned, run in (*pairs, ("model", plan.get("model"), model))
        if run is not None and planned != run
    ]
    if differences:
        raise ReportError(
            f"--plan is not of this run: {'; '.join(differences)}. Plan the run with its own flags."
        )
