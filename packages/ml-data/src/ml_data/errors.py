"""Exceptions that a user of ml_data can cause, and the exit codes in which they end.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: the input, the output, the machine or a worker; the message says which |
| 2 | bad usage: a flag that does not exist, a value that it cannot have |
| 130 | ended by Ctrl-C |
| 143 | ended by SIGTERM, as a scheduler sends it |

ml-models and ml-train use the same numbers.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command returns to the shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130
    TERMINATED = 143


class MlDataError(Exception):
    """Base of every error of this package; the text names the value, the rule and the fix."""


class InputError(MlDataError):
    """An input file is missing, damaged, or lacks what was asked of it."""


class ChangedInputError(InputError):
    """An input file changed while it was read, so that nothing of the run can be used."""


class TokenizerError(MlDataError):
    """A tokenizer cannot be loaded or does not fit."""


class FormatError(MlDataError):
    """A .bin/.idx pair or its manifest is damaged or inconsistent."""


class OutputError(MlDataError):
    """The output cannot be written."""


class WorkerError(MlDataError):
    """A worker process died. Finished shards are kept for the next run."""


class UsageError(MlDataError):
    """An option has a value that it cannot have; exit code 2."""


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt it is no Exception, which code would catch."""
