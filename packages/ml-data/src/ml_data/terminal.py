"""The only module that writes to a terminal or a log: results, notices, errors, progress, tables.

Results go to the standard output, everything else to the standard error. A terminal that cannot
show a character, a closed stream or a full log never ends a run. Only results that cannot be
written make a command fail. rich draws bars and tables. It is imported when something is drawn, as
its import takes 60 ms.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from ml_data.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from ml_data.pipeline.progress import ProgressUpdate

_SECONDS_BETWEEN_DRAWINGS = 0.1
_NAME = "ml-data"
# What writing to a stream that is gone, full or closed raises.
_STREAM_ERRORS = (OSError, ValueError)


def prepare_streams() -> None:
    """Make the standard streams fit to write on; for the start of a command.

    A stream that the caller closed becomes /dev/null: otherwise the next file that is opened
    would get its number, and a library would print into that file. Characters that
    the terminal's encoding lacks are written as escapes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, *_STREAM_ERRORS):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def printable(text: str) -> str:
    """`text` on one line, control characters and half characters as escapes such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def say(text: str) -> None:
    """Write a result to the standard output; a line break in `text` begins a new line.

    Raises OutputError where it cannot be written, BrokenPipeError where nobody reads it.
    """
    with _reporting_results():
        print("\n".join(printable(line) for line in text.split("\n")), file=sys.stdout)


def end_results() -> None:
    """Write what is still in the buffer of the standard output. Raises as `say`."""
    with _reporting_results():
        sys.stdout.flush()


def drop_unwritten() -> None:
    """Send to /dev/null what a stream does not take, as Python would fail to write it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except _STREAM_ERRORS:
            with suppress(*_STREAM_ERRORS):
                devnull = os.open(os.devnull, os.O_WRONLY)
                os.dup2(devnull, stream.fileno())
                os.close(devnull)


@contextmanager
def _reporting_results() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as fault:
        raise OutputError(
            f"cannot write to the standard output: {fault.strerror or fault}"
        ) from fault


def notice(text: str) -> None:
    """Tell what is no error, on the standard error."""
    _tell(f"{_NAME}: {printable(text)}")


def error(text: str) -> None:
    """Tell why a command failed, on the standard error."""
    _tell(f"{_NAME}: error: {printable(text)}")


def _tell(line: str) -> None:
    with suppress(*_STREAM_ERRORS):
        print(line, file=sys.stderr, flush=True)


class ProgressLine:
    """Progress as plain lines in a log, and as a bar that is redrawn on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = False
        with suppress(*_STREAM_ERRORS):
            self._live = stream.isatty()
        self._drawn: Progress | None = None
        self._last = 0.0

    def show(self, update: ProgressUpdate) -> None:
        """Show where the run is."""
        seconds = max(update.seconds, 1e-9)
        megabytes = update.num_bytes / 1e6
        rate = f"{update.num_documents / seconds:.0f} docs/s, {megabytes / seconds:.1f} MB/s"
        left = "" if update.seconds_left is None else f", {clock(update.seconds_left)} left"
        with suppress(*_STREAM_ERRORS):
            if self._live:
                self._draw(update, f"{update.num_documents:,} documents, {rate}{left}")
            else:
                text = f"Processed {update.num_documents} documents ({rate}{left})."
                print(text, file=self._stream, flush=True)

    def _draw(self, update: ProgressUpdate, text: str) -> None:
        now = time.monotonic()
        # Many small batches a second would draw more than a terminal shows.
        if update.fraction < 1 and now - self._last < _SECONDS_BETWEEN_DRAWINGS:
            return
        self._last = now
        if self._drawn is None:
            # Here for start-up time: rich takes 60 ms.
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}")
            console = _console(self._stream)
            self._drawn = Progress(*columns, console=console, auto_refresh=False)
            self._drawn.add_task("", total=1.0, text=text)
            self._drawn.start()
        self._drawn.update(self._drawn.task_ids[0], completed=update.fraction, text=text)
        self._drawn.refresh()

    def end(self) -> None:
        """Leave the bar as it stands, and go to the next line."""
        if self._drawn is not None:
            with suppress(*_STREAM_ERRORS):
                self._drawn.stop()


def _console(stream: TextIO) -> Console:
    # Here for start-up time: rich takes 60 ms.
    from rich.console import Console

    class OpenConsole(Console):
        """A console that raises where nobody reads. rich's own would end the process."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return OpenConsole(file=stream)


def clock(seconds: float) -> str:
    """1:05:09 or 5:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say_histogram(rows: list[tuple[str, int]], headings: tuple[str, str]) -> None:
    """Write a table of (label, count) with a bar each, the longest for the highest count."""
    # Here for start-up time, as in the functions above.
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    highest = max((count for _, count in rows), default=1)
    for label, count in rows:
        table.add_row(label, f"{count:,}", ProgressBar(total=highest, completed=count, width=40))
    with _reporting_results():
        _console(sys.stdout).print(table)
