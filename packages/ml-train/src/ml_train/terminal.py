"""What ml-train tells its user. No other module of the package writes to a terminal.

Of the processes of a run, rank 0 alone shows notices and details. Every rank shows its warnings,
with its number. Levels and streams are as in ml_models.terminal.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ml_models.terminal import (
    DEFAULT_LEVEL,
    LEVELS,
    Voice,
    stderr_is_terminal,
    stdout_is_terminal,
    to_stderr,
    to_stdout,
)

VOICE = Voice("ml-train", "ml_train")

result, table, progress_bar = VOICE.result, VOICE.table, VOICE.progress_bar
notice, detail, alarm = VOICE.notice, VOICE.detail, VOICE.alarm

__all__ = [
    "DEFAULT_LEVEL",
    "LEVELS",
    "alarm",
    "detail",
    "error",
    "notice",
    "own_rank",
    "progress_bar",
    "result",
    "set_level",
    "speaking",
    "stderr_is_terminal",
    "stdout_is_terminal",
    "table",
    "warning",
]


def own_rank() -> int:
    """The rank that torchrun gave this process; 0 without torchrun."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdecimal() else 0


def warning(text: str) -> None:
    """Say what the user should look at, though the command goes on."""
    rank = own_rank()
    VOICE.warning(f"rank {rank}: {text}" if rank else text)


def error(text: str) -> None:
    """Say why the command ends."""
    rank = own_rank()
    VOICE.error(text, mark=f" (rank {rank})" if rank else "")


def set_level(level: str) -> None:
    """Show messages from `level` on; other ranks than 0 show warnings and errors only."""
    quiet = own_rank() != 0 and LEVELS[level] < LEVELS["warning"]
    VOICE.set_level("warning" if quiet else level)


@contextmanager
def speaking(level: str = DEFAULT_LEVEL, *, log_to_stdout: bool = False) -> Iterator[None]:
    """Show messages from `level` on; other ranks than 0 show warnings and errors only.

    log_to_stdout: the messages are part of a run's log, whose reports of steps go to stdout.
    """
    with VOICE.speaking(level, to_stdout if log_to_stdout else to_stderr):
        set_level(level)
        yield
