"""What a person watches: the progress of a run, bars. rich draws it, imported when it draws."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

    from ml_data.pipeline.progress import Tick

_SECONDS_BETWEEN_DRAWINGS = 0.1


class ProgressLine:
    """Plain lines in a log; on a terminal, one line with a bar that is drawn over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._drawn: Progress | None = None
        self._last = 0.0

    def show(self, tick: Tick) -> None:
        """Show where the run is."""
        seconds = max(tick.seconds, 1e-9)
        rate = (
            f"{tick.num_documents / seconds:.0f} docs/s, {tick.num_bytes / seconds / 1e6:.1f} MB/s"
        )
        left = "" if tick.seconds_left is None else f", {clock(tick.seconds_left)} left"
        if self._live:
            self._draw(tick, f"{tick.num_documents:,} documents, {rate}{left}")
        else:
            text = f"Processed {tick.num_documents} documents ({rate}{left})."
            print(text, file=self._stream, flush=True)

    def _draw(self, tick: Tick, text: str) -> None:
        now = time.monotonic()
        if tick.fraction < 1 and now - self._last < _SECONDS_BETWEEN_DRAWINGS:
            return
        self._last = now
        if self._drawn is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}")
            console = Console(file=self._stream)
            self._drawn = Progress(*columns, console=console, auto_refresh=False)
            self._drawn.add_task("", total=1.0, text=text)
            self._drawn.start()
        self._drawn.update(self._drawn.task_ids[0], completed=tick.fraction, text=text)
        self._drawn.refresh()

    def end(self) -> None:
        """Leave the line that was drawn over."""
        if self._drawn is not None:
            self._drawn.stop()


def clock(seconds: float) -> str:
    """1:05:09 or 5:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_histogram(rows: list[tuple[str, int]], headings: tuple[str, str]) -> None:
    """A bar for each (label, count), the longest for the highest count."""
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    highest: Any = max((count for _, count in rows), default=1)
    for label, count in rows:
        table.add_row(label, f"{count:,}", ProgressBar(total=highest, completed=count, width=40))
    Console().print(table)
