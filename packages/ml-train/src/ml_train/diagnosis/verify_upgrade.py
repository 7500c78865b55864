"""May a run go on under another environment? Trained under one Python, resumed under another.

    under the first    step 1 ... N, save, N+1 ... 2N, save
    under the second                 load, N+1 ... 2N, save

The environments differ in megatron-core, torch or Python, as before and after an upgrade. Compared
is what verify-resume compares: every tensor of the two last checkpoints, and loss, auxiliary loss
and gradient norm of the steps that both took. Where both environments compute the same, all is
equal to the bit. Where a library rounds otherwise, the difference of each tensor is told, and the
tolerance decides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ml_train import tables
from ml_train.checkpoint.compare import Comparison
from ml_train.config.run import RunConfig
from ml_train.diagnosis.environments import Environment
from ml_train.diagnosis.resumed_runs import Row, compare_resumed, grouped
from ml_train.diagnosis.runs import StartRun, start
from ml_train.errors import MlTrainError

_SHOWN = 20
"""Tensors in the table; --json has all."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the two environments made of one run."""

    comparisons: list[Comparison]
    losses: Row

    @property
    def rows(self) -> list[Row]:
        """The table of verify-resume."""
        return [*grouped(self.comparisons), self.losses]

    @property
    def identical(self) -> bool:
        """To the bit, in everything that is compared."""
        return not self.losses.differing and not self.differing

    @property
    def differing(self) -> list[Comparison]:
        """Tensors and documents that are not equal: documents, then tensors, largest first."""
        return sorted(
            (comparison for comparison in self.comparisons if not comparison.equal),
            key=lambda comparison: (
                comparison.elements > 0,
                -comparison.relative_l2,
                comparison.key,
            ),
        )

    def faults(self, tolerance: float) -> list[str]:
        """What differs by more than rounding may; empty where a run may go on."""
        faults = [
            f"{comparison.key}: {comparison.note or _relative(comparison.relative_l2)}"
            for comparison in self.differing
            if not (comparison.elements and comparison.relative_l2 <= tolerance)
        ]
        if self.losses.differing and not self.losses.relative <= tolerance:
            note = f"{_relative(self.losses.relative)}, {self.losses.note}"
            faults.append(f"{self.losses.what}: {note}")
        return faults

    def to_dict(self, tolerance: float) -> dict[str, object]:
        """For JSON: the verdict, and every tensor that differs."""
        return {
            "identical": self.identical,
            "agrees": not self.faults(tolerance),
            "tolerance": tolerance,
            "losses_relative": self.losses.relative,
            "compared": len(self.comparisons),
            "differing": [
                {
                    "key": comparison.key,
                    "elements": comparison.elements,
                    "differing": comparison.differing,
                    "largest": comparison.max_difference,
                    "relative_l2": comparison.relative_l2,
                    "note": comparison.note,
                }
                for comparison in self.differing
            ],
        }


def verify_upgrade(
    config: RunConfig,
    environments: tuple[Environment, Environment],
    *,
    steps: int,
    num_processes: int,
    folder: Path,
    progress: Callable[[str], None],
) -> Result:
    """Both runs and the comparison. Raises MlTrainError, with the environment's name, where a run
    fails."""
    first, second = environments
    comparisons, losses = compare_resumed(
        config,
        steps=steps,
        num_processes=num_processes,
        folder=folder,
        runs={"from": _started_by(first), "to": _started_by(second)},
        progress=progress,
    )
    return Result(comparisons=comparisons, losses=losses)


def _started_by(environment: Environment) -> StartRun:
    def start_there(words: list[str], num_processes: int, log: Path) -> None:
        try:
            start(words, num_processes, log, python=str(environment.python))
        except MlTrainError as error:
            raise MlTrainError(f"{environment.name}: {error}") from error

    return start_there


def differences(result: Result) -> str:
    """The tensors that differ, for a terminal; empty where none does."""
    if not result.differing:
        return ""
    columns = [
        tables.Column(heading="tensor", is_text=True),
        *(
            tables.Column(heading=heading)
            for heading in ("elements", "differing", "largest", "relative")
        ),
        tables.Column(heading="", is_text=True),
    ]
    text = tables.plain_text(columns, map(_cells, result.differing[:_SHOWN]))
    hidden = len(result.differing) - _SHOWN
    if hidden > 0:
        text += f"\nand {hidden} more, which differ less (see --json)"
    return text


def _cells(comparison: Comparison) -> list[str]:
    return [
        comparison.key,
        str(comparison.elements),
        str(comparison.differing),
        tables.difference(comparison.max_difference),
        tables.difference(comparison.relative_l2),
        comparison.note,
    ]


def _relative(difference: float) -> str:
    return f"relative difference {tables.difference(difference)}"
