"""Do layouts give the same numbers? One run of a few steps per layout, compared with one process.

Every run starts from the same seed and takes the same sequences per global batch, in float32, as a
user would start it (torchrun, `ml-train pretrain`). Compared are loss, auxiliary loss and gradient
norm of each step, the experts of each token in each step, and each parameter after the last step.
ml_train.diagnosis.layouts says what a layout's name means.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_train.checkpoint.compare import Comparison, compare
from ml_train.checkpoint.store import folder_of
from ml_train.diagnosis.choices import CLOSE, compare_choices
from ml_train.diagnosis.layouts import LEARNING_RATE, STEPS, Plan
from ml_train.diagnosis.runs import Start, numbers, relative, start, words_of
from ml_train.errors import MlTrainError

TOLERANCE = 1e-5
"""Relative: of loss, auxiliary loss, gradient norm, and of each parameter tensor in L2 norm."""
ELEMENT_TOLERANCE = 0.05
"""Of one element of a parameter, as a share of the learning rate."""
_METRICS = ("loss", "aux_loss", "grad_norm")


@dataclass(frozen=True, kw_only=True)
class Result:
    """How far a layout is from one process: the largest differences."""

    layout: str
    num_processes: int
    seconds: float
    loss: float = 0.0
    aux_loss: float = 0.0
    grad_norm: float = 0.0
    parameter_l2: float = 0.0
    """Of the tensor that differs most; relative."""
    parameter_element: float = 0.0
    """Of one element, as a share of the learning rate."""
    worst_parameter: str = ""
    choices: int = 0
    """Tokens that went to other experts, over all steps and layers."""
    choice_margin: float = 0.0
    """Between the competing router logits, the largest of those tokens."""
    error: str = ""
    """Why the run, or a comparison, was not possible."""

    @property
    def agrees(self) -> bool:
        """Within the tolerances."""
        relative = (self.loss, self.aux_loss, self.grad_norm, self.parameter_l2)
        within = all(value <= TOLERANCE for value in relative)
        close = self.choice_margin < CLOSE and self.parameter_element <= ELEMENT_TOLERANCE
        return within and close and not self.error

    @property
    def identical(self) -> bool:
        """To the bit, in everything that is compared."""
        differences = (self.loss, self.aux_loss, self.grad_norm, self.parameter_l2)
        return not (any(differences) or self.parameter_element or self.choices or self.error)

    def describe(self) -> str:
        """One line, as soon as a layout is done."""
        if self.error:
            return f"failed: {self.error}"
        return (
            f"{'agrees' if self.agrees else 'DIFFERS'}: loss {self.loss:.1e}, "
            f"aux {self.aux_loss:.1e}, norm {self.grad_norm:.1e}, tensor {self.parameter_l2:.1e}, "
            f"element {self.parameter_element:.1e} x lr, {self.choices} choices"
            + (f" by margins up to {self.choice_margin:.1e}" if self.choices else "")
            + f", {self.seconds:.0f} s"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not a number is null."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        return {**values, "agrees": self.agrees}


def verify_layouts(
    plans: Sequence[Plan], *, folder: Path, progress: Callable[[str], None], start: Start = start
) -> list[Result]:
    """Run all plans, the first being the baseline. Raises MlTrainError where that one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    baseline, *others = plans
    progress(f"{baseline.name}, {STEPS} steps")
    run_plan(baseline, folder, start)
    results = []
    for each in others:
        progress(f"{each.name}: {each.num_processes} processes, {STEPS} steps")
        began, failure = time.monotonic(), ""
        try:
            run_plan(each, folder, start)
        except MlTrainError as error:
            failure = str(error)
        seconds = time.monotonic() - began
        results.append(compare_runs(baseline, each, folder, seconds=seconds, failure=failure))
        progress("  " + results[-1].describe())
    return results


def run_plan(each: Plan, folder: Path, start: Start = start) -> None:
    """Leave checkpoint, metrics and router logits below folder. Raises MlTrainError."""
    place = _place(each, folder)
    words = [*words_of(each.config), "--save", str(place)]
    words += ["--metrics-file", f"{place}.jsonl", "--router-logits-dir", f"{place}.logits"]
    start(words, each.num_processes, Path(f"{place}.log"))


def compare_runs(
    first: Plan, second: Plan, folder: Path, *, seconds: float = 0.0, failure: str = ""
) -> Result:
    """What two runs left below folder; `failure` is why the second did not end."""
    found: dict[str, Any] = {"error": failure}
    ours, theirs = (_place(one, folder) for one in (first, second))
    try:
        if not failure:
            found |= _metrics(Path(f"{ours}.jsonl"), Path(f"{theirs}.jsonl"))
            found |= _choices(Path(f"{ours}.logits"), Path(f"{theirs}.logits"), first.topk)
            found |= _parameters(compare(folder_of(ours, STEPS), folder_of(theirs, STEPS)))
    except MlTrainError as error:
        found["error"] = str(error)
    return Result(layout=second.name, num_processes=second.num_processes, seconds=seconds, **found)


def _place(each: Plan, folder: Path) -> Path:
    return folder / each.name.replace(" ", "-")


def table(results: Iterable[Result]) -> Any:
    """A rich table."""
    from rich.table import Table

    shown = Table(title=f"largest differences from one process, {STEPS} steps (relative)")
    shown.add_column("layout", no_wrap=True)
    for heading in ("loss", "aux", "norm", "tensor L2", "element/lr", "choices", "s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    for each in results:
        figures = (each.loss, each.aux_loss, each.grad_norm, each.parameter_l2)
        cells = [f"{value:.1e}" for value in (*figures, each.parameter_element)]
        cells.append(str(each.choices))
        if each.error:
            cells = ["-"] * len(cells)
        verdict = "agrees" if each.agrees else "FAILED" if each.error else "DIFFERS"
        shown.add_row(each.layout, *cells, f"{each.seconds:.0f}", verdict)
    return shown


def _metrics(first: Path, second: Path) -> dict[str, Any]:
    ours, theirs = numbers(first), numbers(second)
    steps = range(1, STEPS + 1)
    if any(number not in ours or number not in theirs for number in steps):
        raise MlTrainError(f"{first} and {second} do not both have steps 1 to {STEPS}.")
    return {
        name: max(relative(ours[number][at], theirs[number][at]) for number in steps)
        for at, name in enumerate(_METRICS)
    }


def _choices(first: Path, second: Path, topk: int) -> dict[str, Any]:
    found = compare_choices(first, second, steps=STEPS, topk=topk)
    return {"choices": found.differing, "choice_margin": found.largest_margin}


def _parameters(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    norm, element, worst, error = 0.0, 0.0, "", ""
    for each in comparisons:
        if each.key in ("run state", "random states"):
            continue
        if each.note:
            error = error or f"{each.key}: {each.note}"
        if each.relative_l2 > norm:
            norm, worst = each.relative_l2, each.key
        element = max(element, each.max_difference / LEARNING_RATE)
    return {
        "parameter_l2": norm,
        "parameter_element": element,
        "worst_parameter": worst,
        "error": error,
    }
