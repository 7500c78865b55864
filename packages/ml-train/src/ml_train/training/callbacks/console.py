"""Reports for people: a progress display on a terminal, plain lines elsewhere."""

from typing import Any, TextIO

from ml_train import tables, terminal
from ml_train.training.callbacks.base import TrainerView
from ml_train.training.callbacks.reporter import Report, Sink


class ConsoleSink(Sink):
    """Plain lines: what a log file wants."""

    def __init__(self, stream: TextIO | None = None, *, tells_of_saves: bool = True):
        """tells_of_saves: off where the checkpoints say it themselves."""
        self._stream = stream
        self._tells_of_saves = tells_of_saves

    def write(self, line: str) -> None:
        """One line, at once."""
        terminal.result(line, stream=self._stream)

    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """The model, and settings without effect."""
        from ml_models.parameters import billions
        from ml_train.training.flops import active_parameters, total_parameters

        model = trainer.train_module.model_config
        self.write(
            f"{trainer.config.model.model_config or trainer.config.model.model}: "
            f"{billions(total_parameters(model))} parameters, "
            f"{billions(active_parameters(model))} "
            f"active per token; from step {trainer.iteration} to "
            f"{trainer.config.training.train_iters}"
        )
        for warning in warnings:
            self.write(f"warning: {warning}")

    def report(self, report: Report) -> None:
        """One line."""
        self.write(report_line(report))

    def validation(self, iteration: int, losses: dict[str, float]) -> None:
        """One line."""
        parts = "  ".join(f"{name} {tables.loss(value)}" for name, value in losses.items())
        self.write(f"validation at step {iteration}: {parts}")

    def event(self, iteration: int, kind: str, text: str) -> None:
        """One line."""
        if kind == "saved" and not self._tells_of_saves:
            return
        self.write(f"{kind} at step {iteration}: {text}")


class TerminalSink(ConsoleSink):
    """The same lines above a progress bar with speed, time left and memory."""

    def __init__(self, *, tells_of_saves: bool = True) -> None:
        super().__init__(tells_of_saves=tells_of_saves)
        self._progress: Any = None
        self._task: Any = None

    def write(self, line: str) -> None:
        """Above the bar, once there is one."""
        if self._progress is None:
            super().write(line)
        else:
            self._progress.console.print(line, highlight=False, markup=False)

    def start(self, trainer: TrainerView, warnings: list[str]) -> None:
        """Open the display."""
        super().start(trainer, warnings)
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )

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

    def step(self, iteration: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=iteration)

    def report(self, report: Report) -> None:
        """The line, and the figures beside the bar."""
        super().report(report)
        speed = tables.per_second(report.tokens_per_second_per_device)
        text = f"loss {tables.loss(report.loss)}  {speed} tokens/s/device"
        self._progress.update(self._task, text=text)

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
    """Share of tokens per expert, mean over layers; least and most over all where many."""
    means = [100 * sum(column) / len(load) for column in zip(*load, strict=True)]
    if len(means) <= 16:
        shares = " ".join(f"{mean:.0f}" for mean in means)
        return f"{shares} %"
    every = [100 * share for row in load for share in row]
    return f"{min(every):.1f}-{max(every):.1f} %"
