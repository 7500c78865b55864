"""Reports for programs: JSON lines, TensorBoard, Weights & Biases.

metrics.jsonl has an object per line with its `kind`: start (configuration, devices, warnings),
report, validation, saved, skipped, rollback, resumed (after a rollback) or error. A resumed run
appends. Its start record has the step that it goes on from; what an interrupted run wrote beyond
that step is void (ml_train.report.records leaves it out).
"""

import dataclasses
import json
import math
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import torch
from typing_extensions import override

from ml_train.errors import ConfigError
from ml_train.training.callbacks.base import TrainerView
from ml_train.training.callbacks.reporter import Report, Sink, wall_clock

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class WandbRun(Protocol):
    """What is used of a run of Weights & Biases."""

    def log(self, values: dict[str, float], step: int) -> object: ...
    def finish(self) -> object: ...


class JsonLinesSink(Sink):
    """Appends to a file. A line reaches the file system at once, so that a kill loses none."""

    def __init__(self, path: Path):
        self._path = path
        self._file: TextIO | None = None

    @override
    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """The run's facts."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._write("start", trainer.iteration, **run_facts(trainer), warnings=warnings)

    @override
    def report(self, report: Report) -> None:
        """One line."""
        self._write("report", report.iteration, **report.to_dict())

    @override
    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """One line."""
        self._write("validation", iteration, losses=losses)

    @override
    def event(self, iteration: int, kind: str, text: str) -> None:
        """One line."""
        self._write(kind, iteration, text=text)

    @override
    def rollback(self, trainer: TrainerView, left: int) -> None:
        """Like a start record: what was written beyond this step is void."""
        self._write("resumed", trainer.iteration, left=left)

    @override
    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, kind: str, step: int, **values: object) -> None:
        assert self._file is not None
        record = {"kind": kind, "time": wall_clock(), "iteration": step, **values}
        self._file.write(json.dumps(_finite(record), allow_nan=False) + "\n")
        self._file.flush()


def run_facts(trainer: TrainerView) -> dict[str, object]:
    """Configuration, model, devices and versions, as JSON values."""
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return {
        "config": dataclasses.asdict(trainer.config),
        "model": trainer.train_module.model_config.to_dict(),
        "num_devices": world,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "megatron-core": metadata.version("megatron-core"),
        },
    }


def _finite(value: object) -> object:
    """JSON has no NaN or Inf: they become the strings that float() reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _end_last_line(path: Path) -> None:
    """End a half line that a killed run left, so that the next record begins a line."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


class TensorBoardSink(Sink):
    """Scalars, and the configuration as text."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._writer: SummaryWriter | None = None

    @override
    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """Open the event file. Steps that an interrupted run wrote beyond this are purged."""
        # The import takes seconds, which only runs with TensorBoard and only rank 0 need.
        from torch.utils.tensorboard import SummaryWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        # Purging drops all events from the named step on: this is the first new step.
        self._writer = SummaryWriter(str(self._directory), purge_step=trainer.iteration + 1)
        text = json.dumps(run_facts(trainer), indent=2, default=str)
        self._writer.add_text("configuration", f"```\n{text}\n```", trainer.iteration + 1)

    @override
    def report(self, report: Report) -> None:
        """All scalars."""
        self._add(report.scalars(), report.iteration)

    @override
    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """Losses."""
        self._add({f"validation/{name}": loss for name, loss in losses.items()}, iteration)

    @override
    def event(self, iteration: int, kind: str, text: str) -> None:
        """Faults, as text."""
        if kind != "saved" and self._writer is not None:
            self._writer.add_text(f"health/{kind}", text, iteration)
            self._writer.flush()

    @override
    def rollback(self, trainer: TrainerView, left: int) -> None:
        """Open a new event file, which purges the steps that will be done again."""
        self.close()
        self.start(trainer, [])

    @override
    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, scalars: dict[str, float], iteration: int) -> None:
        assert self._writer is not None  # start() opened it
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()


class WandbSink(Sink):
    """Scalars to Weights & Biases, where the package is installed."""

    def __init__(self, *, project: str, name: str | None, directory: Path):
        self._project, self._name, self._directory = project, name, directory
        self._run: WandbRun | None = None

    @override
    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """Begin a run there. Raises ConfigError without the package."""
        try:
            # An optional dependency: only this flag needs it.
            import wandb  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise ConfigError(
                "--wandb-project needs the wandb package: pip install wandb, or drop the flag."
            ) from error
        self._directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._project,
            name=self._name,
            dir=str(self._directory),
            config=run_facts(trainer),
        )

    @override
    def report(self, report: Report) -> None:
        """All scalars."""
        self._log(report.scalars(), report.iteration)

    @override
    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """Losses."""
        self._log({f"validation/{name}": loss for name, loss in losses.items()}, iteration)

    @override
    def close(self) -> None:
        """End the run there."""
        if self._run is not None:
            self._run.finish()

    def _log(self, scalars: dict[str, float], iteration: int) -> None:
        assert self._run is not None  # start() began it
        self._run.log(scalars, step=iteration)
