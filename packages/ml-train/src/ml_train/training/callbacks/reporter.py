"""A report every --log-interval steps, handed to sinks: console, TensorBoard, JSON lines, W&B.

Losses, norms and shares are means over the steps of the interval. Rates are its tokens divided by
its seconds. Memory is its peak. Sinks run on global rank 0 alone.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from typing_extensions import override

from ml_train import terminal
from ml_train.checkpoint.directory.store import iteration_of
from ml_train.checkpoint.run_state import RunState
from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics


@dataclass(frozen=True, kw_only=True)
class Report:
    """The metrics of an interval of steps. Units are those of StepMetrics."""

    iteration: int
    """The last step of the interval."""
    num_steps: int
    train_iters: int
    loss: float
    aux_loss: float | None
    z_loss: float | None
    learning_rate: float
    """Of the last step."""
    grad_norm: float | None
    tokens_per_second_per_device: float
    model_tflops_per_device: float
    mfu: float | None
    memory_bytes: int
    step_seconds: float
    phase_seconds: dict[str, float] = field(default_factory=dict)
    expert_load: list[list[float]] = field(default_factory=list)
    router_entropy: list[float] = field(default_factory=list)
    consumed_samples: int
    skipped_steps: int

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)

    def scalars(self) -> dict[str, float]:
        """Name -> number, as TensorBoard and W&B take them."""
        scalars = {
            "train/loss": self.loss,
            "train/aux_loss": self.aux_loss,
            "train/z_loss": self.z_loss,
            "train/learning_rate": self.learning_rate,
            "train/grad_norm": self.grad_norm,
            "train/skipped_steps": float(self.skipped_steps),
            "speed/tokens_per_second_per_device": self.tokens_per_second_per_device,
            "speed/model_tflops_per_device": self.model_tflops_per_device,
            "speed/mfu": self.mfu,
            "speed/step_seconds": self.step_seconds,
            "memory/peak_gib": self.memory_bytes / 2**30,
        }
        for phase, seconds in self.phase_seconds.items():
            scalars[f"seconds/{phase}"] = seconds
        for layer, shares in enumerate(self.expert_load):
            for expert, share in enumerate(shares):
                scalars[f"experts/layer_{layer:02}_expert_{expert:02}"] = share
        for layer, entropy in enumerate(self.router_entropy):
            scalars[f"router_entropy/layer_{layer:02}"] = entropy
        return {name: value for name, value in scalars.items() if value is not None}


class Sink:
    """Where reports go. All methods do nothing here."""

    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """Before the first step."""

    def report(self, report: Report) -> None:
        """After each interval."""

    def step(self, iteration: int) -> None:
        """After each step."""

    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """After each validation."""

    def event(self, iteration: int, kind: str, text: str) -> None:
        """After something else happened. kind: saved, skipped, rollback or error."""

    def rollback(self, trainer: TrainerView, left: int) -> None:
        """After step `left` was given up. What was written beyond trainer.iteration is void."""

    def close(self) -> None:
        """Flush what is open. Called once."""


class Reporter(Callback):
    """Gathers steps and hands a Report to each sink."""

    def __init__(self, *, log_interval: int, sinks: list[Sink], warnings: list[str] | None = None):
        self._log_interval = log_interval
        self._sinks = sinks
        self._warnings = warnings or []
        self._steps: list[StepMetrics] = []
        self._active = False
        self._broken: list[Sink] = []

    @override
    def on_train_start(self, trainer: TrainerView) -> None:
        """Open the sinks on rank 0."""
        self._active = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        for sink in self._sinks if self._active else ():
            sink.start(trainer, self._warnings)

    @override
    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """Report at the end of an interval and after the run's last step."""
        if not self._active:
            return
        self._steps.append(metrics)
        total = trainer.config.training.train_iters
        if metrics.iteration % self._log_interval == 0 or metrics.iteration == total:
            self._flush(total)
        self._tell(lambda sink: sink.step(metrics.iteration))

    @override
    def on_validation_end(self, trainer: TrainerView, losses: dict[str, float]) -> None:
        """Pass it on."""
        self._tell(lambda sink: sink.validation(trainer.iteration, losses))

    @override
    def on_event(self, trainer: TrainerView, iteration: int, kind: str, text: str) -> None:
        """Pass it on, after the steps before it."""
        if self._active:
            self._flush(trainer.config.training.train_iters)
            self._tell(lambda sink: sink.event(iteration, kind, text))

    @override
    def on_rollback(self, trainer: TrainerView, left: int, state: RunState) -> None:
        """Drop the steps after the one that the run goes on from."""
        self._steps = []
        self._tell(lambda sink: sink.rollback(trainer, left))

    @override
    def on_save(self, trainer: TrainerView, path: Path) -> None:
        """Pass it on. A checkpoint written in the background may be of an earlier step."""
        iteration = iteration_of(path) or trainer.iteration
        self._tell(lambda sink: sink.event(iteration, "saved", str(path)))

    @override
    def on_last_step(self, trainer: TrainerView) -> None:
        """Report what is left of an interval."""
        if self._active:
            self._flush(trainer.config.training.train_iters)

    @override
    def on_train_end(self, trainer: TrainerView) -> None:
        """Report what is left of an interval, and close."""
        if self._active:
            self._flush(trainer.config.training.train_iters)
            self._close()

    @override
    def on_error(self, trainer: TrainerView, error: BaseException) -> None:
        """Report what is left and the error's words, and close."""
        if self._active:
            self._flush(trainer.config.training.train_iters)
            text = f"{type(error).__name__}: {error}"
            self._tell(lambda sink: sink.event(trainer.iteration, "error", text))
            self._close()

    def _flush(self, train_iters: int) -> None:
        if self._steps:
            report = summarize(self._steps, train_iters)
            self._steps = []
            self._tell(lambda sink: sink.report(report))

    def _close(self) -> None:
        self._tell(lambda sink: sink.close())
        self._active = False

    def _tell(self, report_to: Callable[[Sink], None]) -> None:
        """Call every sink on rank 0. A disk that is full costs reports, not the run."""
        for sink in self._sinks if self._active else ():
            try:
                report_to(sink)
            except OSError as error:
                # A warning per sink, not per step.
                if sink not in self._broken:
                    self._broken.append(sink)
                    terminal.warning(f"{type(sink).__name__} lost a report: {error}")


def summarize(steps: list[StepMetrics], train_iters: int) -> Report:
    """The report of consecutive steps."""
    last = steps[-1]
    # A skipped step changed nothing. Its loss, which may be NaN, would hide those of the others.
    made = [step for step in steps if not step.skipped] or steps
    seconds = sum(step.step_seconds for step in steps)

    def over_time(values: list[float]) -> float:
        # Tokens divided by seconds, as a value is tokens per second of its step.
        weighted = sum(value * step.step_seconds for value, step in zip(values, steps, strict=True))
        return weighted / seconds if seconds else 0.0

    phases = {name for step in steps for name in step.phase_seconds}
    return Report(
        iteration=last.iteration,
        num_steps=len(steps),
        train_iters=train_iters,
        loss=_mean([step.loss for step in made]) or 0.0,
        aux_loss=_mean([step.aux_loss for step in made]),
        z_loss=_mean([step.z_loss for step in made]),
        learning_rate=last.learning_rate,
        grad_norm=_mean([step.grad_norm for step in made]),
        tokens_per_second_per_device=over_time(
            [step.tokens_per_second_per_device for step in steps]
        ),
        model_tflops_per_device=over_time([step.model_tflops_per_device for step in steps]),
        mfu=None if last.mfu is None else over_time([step.mfu or 0.0 for step in steps]),
        memory_bytes=max(step.memory_bytes for step in steps),
        step_seconds=seconds / len(steps),
        phase_seconds={
            name: sum(step.phase_seconds.get(name, 0.0) for step in steps) / len(steps)
            for name in sorted(phases)
        },
        expert_load=_mean_rows([step.expert_load for step in steps if step.expert_load]),
        router_entropy=_mean_row([step.router_entropy for step in steps if step.router_entropy]),
        consumed_samples=last.consumed_samples,
        skipped_steps=sum(step.skipped for step in steps),
    )


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def _mean_row(rows: list[list[float]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def _mean_rows(tables: list[list[list[float]]]) -> list[list[float]]:
    return [_mean_row(list(rows)) for rows in zip(*tables, strict=True)]


def wall_clock() -> str:
    """UTC to the second, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
