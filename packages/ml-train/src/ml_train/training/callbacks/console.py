"""Reports for people: a progress display on a terminal, plain lines elsewhere."""

from typing import TextIO

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from typing_extensions import override

from ml_models.parameters import billions, count_parameters
from ml_train import tables, terminal
from ml_train.training.callbacks.base import TrainerView
from ml_train.training.callbacks.reporter import Report, Sink

_NAMED_EXPERTS = 16
"""With more experts than this a line shows the least and the largest share, not all of them."""


class ConsoleSink(Sink):
    """Plain lines: what a log file wants."""

    def __init__(self, stream: TextIO | None = None, *, tells_of_saves: bool = True):
        """tells_of_saves: off where the checkpoint manager announces its saves itself."""
        self._stream = stream
        self._tells_of_saves = tells_of_saves

    def write(self, line: str) -> None:
        """Write a line at once."""
        terminal.result(line, stream=self._stream)

    @override
    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """The model, the steps that are to do, and settings without effect."""
        config, counts = trainer.config, count_parameters(trainer.train_module.model_config)
        self.write(
            f"{config.model.model_config or config.model.model}: "
            f"{billions(counts.total)} parameters, {billions(counts.active)} active per token; "
            f"from step {trainer.iteration} to {config.training.train_iters}"
        )
        for warning in warnings:
            self.write(f"warning: {warning}")

    @override
    def report(self, report: Report) -> None:
        """One line."""
        self.write(report_line(report))

    @override
    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """One line."""
        parts = "  ".join(f"{name} {tables.loss(value)}" for name, value in losses.items())
        self.write(f"validation at step {iteration}: {parts}")

    @override
    def event(self, iteration: int, kind: str, text: str) -> None:
        """One line."""
        if kind == "saved" and not self._tells_of_saves:
            return
        self.write(f"{kind} at step {iteration}: {text}")


class TerminalSink(ConsoleSink):
    """The same lines above a progress bar with speed, time left and memory."""

    def __init__(self, *, tells_of_saves: bool = True) -> None:
        super().__init__(tells_of_saves=tells_of_saves)
        self._progress: Progress | None = None
        self._task = TaskID(0)

    @override
    def write(self, line: str) -> None:
        """Above the bar, once there is one."""
        if self._progress is None:
            super().write(line)
        else:
            self._progress.console.print(line, highlight=False, markup=False)

    @override
    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """Open the display."""
        super().start(trainer, warnings)
        self._progress = terminal.progress_bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._task = self._progress.add_task(
            "", total=trainer.config.training.train_iters, completed=trainer.iteration, text=""
        )
        self._progress.start()

    @override
    def step(self, iteration: int) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=iteration)

    @override
    def report(self, report: Report) -> None:
        """The line, and the figures beside the bar."""
        super().report(report)
        speed = tables.per_second(report.tokens_per_second_per_device)
        text = f"loss {tables.loss(report.loss)}  {speed} tokens/s/device"
        if self._progress is not None:
            self._progress.update(self._task, text=text)

    @override
    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def console_sink(*, tells_of_saves: bool = True) -> ConsoleSink:
    """The display that fits what stdout is."""
    kind = TerminalSink if terminal.stdout_is_terminal() else ConsoleSink
    return kind(tells_of_saves=tells_of_saves)


def report_line(report: Report) -> str:
    """step 10/60  loss 8.1234  aux 1.0023  ...  experts 12 13 12 ... %"""
    parts = [f"step {report.iteration}/{report.train_iters}", f"loss {tables.loss(report.loss)}"]
    if report.aux_loss is not None:
        parts.append(f"aux {tables.loss(report.aux_loss)}")
    if report.z_loss is not None:
        parts.append(f"z {tables.loss(report.z_loss)}")
    parts.append(f"lr {report.learning_rate:.3e}")
    if report.grad_norm is not None:
        parts.append(f"grad norm {report.grad_norm:.3f}")
    parts.append(f"{tables.per_second(report.tokens_per_second_per_device)} tokens/s/device")
    parts.append(f"{tables.tflops(report.model_tflops_per_device)} TFLOP/s/device")
    if report.mfu is not None:
        parts.append(f"MFU {tables.percent(report.mfu)}")
    parts.append(tables.gibibytes(report.memory_bytes))
    if report.expert_load:
        parts.append(f"experts {expert_text(report.expert_load)}")
    if report.skipped_steps:
        parts.append(f"{report.skipped_steps} updates skipped")
    return "  ".join(parts)


def expert_text(load: list[list[float]]) -> str:
    """Share of tokens per expert in percent, the mean over layers.

    Of many experts: the least and the largest share of an expert in any layer.
    """
    means = [100 * sum(column) / len(load) for column in zip(*load, strict=True)]
    if len(means) <= _NAMED_EXPERTS:
        text = " ".join(f"{mean:.0f}" for mean in means)
        return f"{text} %"
    shares = [100 * share for row in load for share in row]
    return f"{min(shares):.1f}-{max(shares):.1f} %"
