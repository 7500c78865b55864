"""Do layouts give the same numbers? A run of a few steps per layout, compared with one process.

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
from typing import TypedDict, cast

from rich.table import Table

from ml_train import tables
from ml_train.checkpoint.compare import Comparison, compare
from ml_train.checkpoint.directory.store import folder_of
from ml_train.diagnosis.choices import CLOSE, compare_choices
from ml_train.diagnosis.layouts import LEARNING_RATE, STEPS, Plan
from ml_train.diagnosis.resumed_runs import DOCUMENTS
from ml_train.diagnosis.runs import StartRun, start, words_of
from ml_train.diagnosis.step_numbers import StepNumbers, read_step_numbers, relative_difference
from ml_train.errors import MlTrainError

TOLERANCE = 1e-5
"""Relative: of loss, auxiliary loss, gradient norm, and of each parameter tensor in L2 norm."""
ELEMENT_TOLERANCE = 0.05
"""Of an element of a parameter, as a share of the learning rate."""


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
    """Of a single element, as a share of the learning rate."""
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
        """A line of progress, as soon as a layout is done."""
        if self.error:
            return f"failed: {self.error}"
        show = tables.difference
        return (
            f"{'agrees' if self.agrees else 'DIFFERS'}: loss {show(self.loss)}, "
            f"aux {show(self.aux_loss)}, norm {show(self.grad_norm)}, "
            f"tensor {show(self.parameter_l2)}, element {show(self.parameter_element)} x lr, "
            f"{self.choices} choices"
            + (f" by margins up to {show(self.choice_margin)}" if self.choices else "")
            + f", {self.seconds:.0f} s"
        )

    def to_dict(self) -> dict[str, object]:
        """For JSON; what is not a number is null."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        return {**values, "agrees": self.agrees}


class Differences(TypedDict, total=False):
    """The fields of Result that a comparison gives."""

    loss: float
    aux_loss: float
    grad_norm: float
    parameter_l2: float
    parameter_element: float
    worst_parameter: str
    choices: int
    choice_margin: float
    error: str


def verify_layouts(
    plans: Sequence[Plan], *, folder: Path, progress: Callable[[str], None]
) -> list[Result]:
    """Run all plans, the first being the baseline. Raises MlTrainError where the baseline fails."""
    folder.mkdir(parents=True, exist_ok=True)
    baseline, *others = plans
    progress(f"{baseline.name}, {STEPS} steps")
    run_plan(baseline, folder, start)
    results = []
    for plan in others:
        progress(f"{plan.name}: {plan.num_processes} processes, {STEPS} steps")
        began, failure = time.monotonic(), ""
        try:
            run_plan(plan, folder, start)
        except MlTrainError as error:
            failure = str(error)
        seconds = time.monotonic() - began
        results.append(compare_runs(baseline, plan, folder, seconds=seconds, failure=failure))
        progress("  " + results[-1].describe())
    return results


def run_plan(plan: Plan, folder: Path, start_run: StartRun) -> None:
    """Leave checkpoint, metrics and router logits below folder. Raises MlTrainError."""
    save = _save_of(plan, folder)
    words = [*words_of(plan.config), "--save", str(save)]
    words += ["--metrics-file", f"{save}.jsonl", "--router-logits-dir", f"{save}.logits"]
    start_run(words, plan.num_processes, Path(f"{save}.log"))


def compare_runs(
    baseline: Plan, plan: Plan, folder: Path, *, seconds: float = 0.0, failure: str = ""
) -> Result:
    """What two runs left below folder; `failure` is why the second did not end."""
    differences: Differences = {"error": failure}
    first, second = _save_of(baseline, folder), _save_of(plan, folder)
    try:
        if not failure:
            differences |= _numbers(Path(f"{first}.jsonl"), Path(f"{second}.jsonl"))
            differences |= _choices(
                Path(f"{first}.logits"), Path(f"{second}.logits"), baseline.topk
            )
            differences |= _parameters(compare(folder_of(first, STEPS), folder_of(second, STEPS)))
    except MlTrainError as error:
        differences["error"] = str(error)
    return Result(
        layout=plan.name, num_processes=plan.num_processes, seconds=seconds, **differences
    )


def _save_of(plan: Plan, folder: Path) -> Path:
    """The plan's --save; its other files stand beside it."""
    return folder / plan.name.replace(" ", "-")


def table(results: Iterable[Result]) -> Table:
    """For a terminal: a row per layout."""
    headings = ("loss", "aux", "norm", "tensor L2", "element/lr", "choices", "s")
    columns = [
        tables.Column(heading="layout", is_text=True),
        *(tables.Column(heading=heading) for heading in headings),
        tables.Column(heading="verdict", is_text=True),
    ]
    title = f"largest differences from one process, {STEPS} steps (relative)"
    return tables.make_table(columns, map(_cells, results), title=title)


def _cells(result: Result) -> list[str]:
    differences = (result.loss, result.aux_loss, result.grad_norm, result.parameter_l2)
    cells = [tables.difference(value) for value in (*differences, result.parameter_element)]
    cells.append(str(result.choices))
    if result.error:
        cells = ["-"] * len(cells)
    verdict = "agrees" if result.agrees else "FAILED" if result.error else "DIFFERS"
    return [result.layout, *cells, f"{result.seconds:.0f}", verdict]


def _numbers(first: Path, second: Path) -> Differences:
    """The largest relative difference of each number over all steps."""
    first_numbers, second_numbers = read_step_numbers(first), read_step_numbers(second)
    steps = range(1, STEPS + 1)
    if any(step not in first_numbers or step not in second_numbers for step in steps):
        raise MlTrainError(f"{first} and {second} do not both have steps 1 to {STEPS}.")
    differences: dict[str, float] = dict.fromkeys(StepNumbers._fields, 0.0)
    for step in steps:
        pairs = zip(first_numbers[step], second_numbers[step], strict=True)
        for name, pair in zip(StepNumbers._fields, pairs, strict=True):
            differences[name] = max(differences[name], relative_difference(*pair))
    return cast("Differences", differences)


def _choices(first: Path, second: Path, topk: int) -> Differences:
    choices = compare_choices(first, second, steps=STEPS, topk=topk)
    return {"choices": choices.differing, "choice_margin": choices.largest_margin}


def _parameters(comparisons: Iterable[Comparison]) -> Differences:
    largest_norm, largest_element, worst, error = 0.0, 0.0, "", ""
    for comparison in comparisons:
        # Counters and random states belong to a layout; only the parameters must agree.
        if comparison.key in DOCUMENTS:
            continue
        if comparison.note:
            error = error or f"{comparison.key}: {comparison.note}"
        if comparison.relative_l2 > largest_norm:
            largest_norm, worst = comparison.relative_l2, comparison.key
        largest_element = max(largest_element, comparison.max_difference / LEARNING_RATE)
    return {
        "parameter_l2": largest_norm,
        "parameter_element": largest_element,
        "worst_parameter": worst,
        "error": error,
    }
