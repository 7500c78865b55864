"""Reports for programs: JSON lines, TensorBoard, Weights & Biases.

metrics.jsonl: one object per line with `kind`: start (configuration, devices, warnings), report,
validation, saved, skipped, rollback, resumed (after a rollback), error. A resumed run appends; its
start record says from which step, and what an interrupted run wrote beyond that step is void
(ml_train.report.records reads it so).
"""

import dataclasses
import json
import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch

from ml_train.errors import ConfigError
from ml_train.training.callbacks.base import TrainerView
from ml_train.training.callbacks.reporter import Report, Sink, wall_clock


class JsonLinesSink(Sink):
    """Appends to a file; each line reaches the file system at once."""

    def __init__(self, path: Path):
        self._path = path
        self._file: TextIO | None = None

    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """The run's facts."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._write("start", trainer.iteration, **run_facts(trainer), warnings=warnings)

    def report(self, report: Report) -> None:
        """One line."""
        self._write("report", **report.to_dict())

    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """One line."""
        self._write("validation", iteration, losses=losses)

    def event(self, iteration: int, kind: str, text: str) -> None:
        """One line."""
        self._write(kind, iteration, text=text)

    def rollback(self, trainer: TrainerView, left: int) -> None:
        """As after a start: what was written beyond this step is void."""
        self._write("resumed", trainer.iteration, left=left)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, kind: str, iteration: int, **values: Any) -> None:
        assert self._file is not None
        record = {"kind": kind, "time": wall_clock(), "iteration": iteration, **values}
        self._file.write(json.dumps(_finite(record), allow_nan=False) + "\n")
        self._file.flush()


def run_facts(trainer: TrainerView) -> dict[str, Any]:
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


def _finite(value: Any) -> Any:
    """JSON has no NaN or Inf: they become the strings that float() reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _end_last_line(path: Path) -> None:
    """A killed run may have left half a line; the next one must not continue it."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


class TensorBoardSink(Sink):
    """Scalars, and the configuration as text."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._writer: Any = None

    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """Open the event file; steps that an interrupted run wrote later are purged."""
        from torch.utils.tensorboard import SummaryWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        # Purging drops all events from that step on, so the first new step is named.
        self._writer = SummaryWriter(str(self._directory), purge_step=trainer.iteration + 1)
        text = json.dumps(run_facts(trainer), indent=2, default=str)
        self._writer.add_text("configuration", f"```\n{text}\n```", trainer.iteration + 1)

    def report(self, report: Report) -> None:
        """All scalars."""
        for name, value in report.scalars().items():
            self._writer.add_scalar(name, value, report.iteration)
        self._writer.flush()

    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """Losses."""
        for name, value in losses.items():
            self._writer.add_scalar(f"validation/{name}", value, iteration)
        self._writer.flush()

    def event(self, iteration: int, kind: str, text: str) -> None:
        """Faults, as text."""
        if kind != "saved":
            self._writer.add_text(f"health/{kind}", text, iteration)
            self._writer.flush()

    def rollback(self, trainer: TrainerView, left: int) -> None:
        """A new event file that purges the steps that will be done again."""
        self._writer.close()
        self.start(trainer, [])

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class WandbSink(Sink):
    """Scalars to Weights & Biases, where the package is installed."""

    def __init__(self, *, project: str, name: str | None, directory: Path):
        self._project, self._name, self._directory = project, name, directory
        self._run: Any = None

    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """Begin a run there. Raises ConfigError without the package."""
        try:
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

    def report(self, report: Report) -> None:
        """All scalars."""
        self._run.log(report.scalars(), step=report.iteration)

    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """Losses."""
        self._run.log({f"validation/{k}": v for k, v in losses.items()}, step=iteration)

    def close(self) -> None:
        """End the run there."""
        if self._run is not None:
            self._run.finish()
