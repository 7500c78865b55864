"""May a run go on under another environment? Trained under one Python, resumed under another.

    under the first    step 1 ... N, save, N+1 ... 2N, save
    under the second                 load, N+1 ... 2N, save

The environments differ in megatron-core, torch or Python, as before and after an upgrade. Compared
is what verify-resume compares: every tensor of the two last checkpoints, and loss, auxiliary loss
and gradient norm of the steps that both took. Where both environments compute the same, all is
equal to the bit; where a library rounds otherwise, the difference of each tensor is told, and it is
the tolerance that decides.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_train.checkpoint.compare import Comparison
from ml_train.config.run import RunConfig
from ml_train.diagnosis import runs
from ml_train.diagnosis.environments import Environment
from ml_train.diagnosis.runs import Start
from ml_train.diagnosis.verify_resume import Row, grouped, two_runs
from ml_train.errors import MlTrainError

_SHOWN = 20
_Run = Callable[..., None]


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
        return not self.losses.differing and all(entry.equal for entry in self.comparisons)

    @property
    def differing(self) -> list[Comparison]:
        """Tensors and documents that are not equal, the one that differs most first."""
        return sorted(
            (entry for entry in self.comparisons if not entry.equal),
            key=lambda entry: (entry.elements > 0, -entry.relative_l2, entry.key),
        )

    def faults(self, tolerance: float) -> list[str]:
        """What differs by more than rounding may; empty where a run may go on."""
        faults = [
            f"{entry.key}: {entry.note or f'relative difference {entry.relative_l2:.1e}'}"
            for entry in self.differing
            if not (entry.elements and entry.relative_l2 <= tolerance)
        ]
        if self.losses.differing and not self.losses.relative <= tolerance:
            note = f"relative difference {self.losses.relative:.1e}, {self.losses.note}"
            faults.append(f"{self.losses.what}: {note}")
        return faults

    def to_dict(self, tolerance: float) -> dict[str, Any]:
        """For JSON: the verdict, and every tensor that differs."""
        return {
            "identical": self.identical,
            "agrees": not self.faults(tolerance),
            "tolerance": tolerance,
            "losses_relative": self.losses.relative,
            "compared": len(self.comparisons),
            "differing": [
                {
                    "key": entry.key,
                    "elements": entry.elements,
                    "differing": entry.differing,
                    "largest": entry.max_difference,
                    "relative_l2": entry.relative_l2,
                    "note": entry.note,
                }
                for entry in self.differing
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
    start: _Run = runs.start,
) -> Result:
    """Both runs and the comparison. Raises MlTrainError, by the environment's name, if one fails.

    start: as runs.start, whose `python` is the environment's.
    """
    first, second = environments
    comparisons, losses = two_runs(
        config,
        steps=steps,
        num_processes=num_processes,
        folder=folder,
        runs={"from": _started_by(first, start), "to": _started_by(second, start)},
        progress=progress,
    )
    return Result(comparisons=comparisons, losses=losses)


def _started_by(environment: Environment, start: _Run) -> Start:
    run = functools.partial(start, python=str(environment.python))

    def named(words: list[str], num_processes: int, log: Path) -> None:
        try:
            run(words, num_processes, log)
        except MlTrainError as error:
            raise MlTrainError(f"{environment.name}: {error}") from error

    return named


def differences(result: Result) -> str:
    """The tensors that differ, for a terminal; empty where none does."""
    if not result.differing:
        return ""
    shown = result.differing[:_SHOWN]
    width = max(len(entry.key) for entry in shown)
    lines = [f"{'tensor':<{width}}{'elements':>12}{'differing':>12}{'largest':>12}{'relative':>12}"]
    for entry in shown:
        line = (
            f"{entry.key:<{width}}{entry.elements:>12}{entry.differing:>12}"
            f"{entry.max_difference:>12.1e}{entry.relative_l2:>12.1e}"
        )
        lines.append(line + (f"  {entry.note}" if entry.note else ""))
    if len(result.differing) > _SHOWN:
        lines.append(f"and {len(result.differing) - _SHOWN} more, which differ less (see --json)")
    return "\n".join(lines)
