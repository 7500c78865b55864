"""The progress of a search: a bar on a terminal, lines in a log; both on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ml_train import terminal
from ml_train.planning.search.search import Progress

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A progress function. stdout is for the result."""
    if not terminal.stderr_is_terminal():
        yield lines(terminal.notice)
        return
    with terminal.progress_bar(stderr=True) as bar:
        task = bar.add_task("building small ranks", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield advance


def lines(write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Progress:
    """A progress function that writes a line every SECONDS_BETWEEN_LINES."""
    last = clock()

    def advance(what: str, done: int, total: int) -> None:
        nonlocal last
        if clock() - last >= SECONDS_BETWEEN_LINES:
            last = clock()
            write(f"{what}: {done:,} of {total:,}")

    return advance
