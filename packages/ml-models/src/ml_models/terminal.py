"""What ml-models tells its user. No other module of the package writes to a terminal.

The result of a command goes to stdout. Messages have a level (error, warning, notice, detail) and
are records of the logger "ml_models": a command shows them, on stderr, while it is `speaking`; a
program that uses the package as a library decides by its own logging what it shows. ml-train has
a Voice of its own.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table

LEVELS = MappingProxyType(
    {
        "error": logging.ERROR,
        "warning": logging.WARNING,
        "notice": logging.INFO,
        "detail": logging.DEBUG,
    }
)
"""From few messages to many: a level shows its own messages and those of the levels before it."""

DEFAULT_LEVEL = "notice"


def to_stdout() -> TextIO | None:
    """The process's stdout at this moment; None where it is closed."""
    return sys.stdout


def to_stderr() -> TextIO | None:
    """The process's stderr at this moment; None where it is closed."""
    return sys.stderr


def stdout_is_terminal() -> bool:
    """Whether a person watches stdout, so that a progress display makes sense."""
    return sys.stdout is not None and sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Whether a person watches stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


class Voice:
    """The results and messages of one program."""

    def __init__(self, program: str, logger: str) -> None:
        """program: the name before an error's text; logger: the name of the logger."""
        self._program = program
        self._logger = logging.getLogger(logger)

    def result(self, text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
        """Write what the user asked for to stdout, or to `stream`. Raises OSError if it cannot."""
        target = stream or to_stdout()
        if target is None:
            raise OSError("stdout is closed, so that the result cannot be written.")
        write(target, text + end)

    def error(self, text: str, *, mark: str = "") -> None:
        """Say why the command ends. mark: what stands behind the word error."""
        self._logger.error(f"{self._program}: error{mark}: {text}")

    def alarm(self, text: str) -> None:
        """Show a report of several lines on stderr whatever the level is."""
        self._logger.error(text)

    def warning(self, text: str) -> None:
        """Say what the user should look at, though the command goes on."""
        self._logger.warning(f"warning: {text}")

    def notice(self, text: str) -> None:
        """Say what happens."""
        self._logger.info(text)

    def detail(self, text: str) -> None:
        """Say what helps to understand a fault."""
        self._logger.debug(text)

    @contextmanager
    def speaking(
        self,
        level: str = DEFAULT_LEVEL,
        stream: Callable[[], TextIO | None] = to_stderr,
    ) -> Iterator[None]:
        """Show messages from `level` on in `stream`; errors go to stderr in any case."""
        handler = _StreamHandler(stream)
        before = self._logger.level, self._logger.propagate
        self._logger.addHandler(handler)
        self._logger.setLevel(LEVELS[level])
        # A root logger with a handler of its own would write every message a second time.
        self._logger.propagate = False
        try:
            yield
        finally:
            self._logger.removeHandler(handler)
            self._logger.setLevel(before[0])
            self._logger.propagate = before[1]

    def set_level(self, level: str) -> None:
        """Show messages from `level` on, until the command ends."""
        self._logger.setLevel(LEVELS[level])

    def table(self, table: "Table", *, width: int) -> None:
        """Write a table of rich to stdout, at least `width` columns wide."""
        # Most commands draw nothing and start sooner without rich.
        from rich.console import Console

        Console(width=max(Console().width, width)).print(table)

    def progress_bar(self, *columns: "str | ProgressColumn", stderr: bool = False) -> "Progress":
        """A progress display of rich, on stdout or stderr; it is not started."""
        from rich.console import Console
        from rich.progress import Progress

        return Progress(*columns, console=Console(stderr=stderr))


def write(stream: TextIO, text: str) -> None:
    """Write and flush; OSError if it fails. Characters that the encoding lacks become escapes."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except ValueError as error:
        raise OSError(f"the output is closed: {error}.") from error
    stream.flush()


class _StreamHandler(logging.Handler):
    """Writes each record as a line. A message that cannot be written does not end the command."""

    def __init__(self, stream: Callable[[], TextIO | None]) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        stream = to_stderr() if record.levelno >= logging.ERROR else self._stream()
        if stream is None:
            return
        with contextlib.suppress(OSError):  # Nobody is left who could be told.
            write(stream, record.getMessage() + "\n")


VOICE = Voice("ml-models", "ml_models")

result, error, warning = VOICE.result, VOICE.error, VOICE.warning
notice, detail, speaking = VOICE.notice, VOICE.detail, VOICE.speaking
