"""The progress of a conversion: a bar on a terminal, a line every half minute in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ml_models import terminal
from ml_models.conversion.convert import Progress

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def show_progress(quiet: bool) -> Iterator[Progress]:
    """A progress function that shows a bar or lines on stderr; stdout is for the result."""
    if quiet:
        yield _silent
    elif terminal.stderr_is_terminal():
        with _bar() as progress:
            yield progress
    else:
        yield lines(terminal.notice)


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress is shown."""


def lines(write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Progress:
    """A progress function that writes one line every SECONDS_BETWEEN_LINES."""
    first: tuple[float, int] | None = None
    last = clock()

    def advance(what: str, done: int, total: int) -> None:
        nonlocal first, last
        now = clock()
        if first is None:
            first = (now, done)  # After a resume the first call has much done: it is no speed.
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = (done - first[1]) / (now - first[0])
        left = f"{(total - done) / rate / 60:.0f} min left" if rate else "waiting"
        write(
            f"{done / 1e9:.1f} of {total / 1e9:.1f} GB ({done / total:.0%}), "
            f"{rate / 1e6:.0f} MB/s, {left}: {what}"
        )

    return advance


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with terminal.VOICE.progress_bar(*columns, stderr=True) as bar:
        task = bar.add_task("opening", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield advance
