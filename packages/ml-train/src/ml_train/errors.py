"""The exceptions that ml_train raises for a user's mistake, and the exit codes of its commands.

A message says what was given, the rule it broke, and what to do instead. The command line prints
that message alone. The three packages share the exit codes by convention: 0 done, 1 failed, 2 bad
usage, 130 Ctrl-C, 143 SIGTERM.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ml_data.errors import MlDataError, UsageError
from ml_models.errors import BAD_USAGE, DONE, FAILED, INTERRUPTED, TERMINATED, Terminated
from ml_models.errors import EXIT_CODES as MODEL_EXIT_CODES

__all__ = [
    "BAD_USAGE",
    "DONE",
    "EXIT_CODES",
    "FAILED",
    "INTERRUPTED",
    "TERMINATED",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LayoutError",
    "MlTrainError",
    "StartError",
    "Terminated",
    "TrainingError",
]


class MlTrainError(Exception):
    """Root of every error that ml_train raises on purpose."""


class ConfigError(MlTrainError):
    """A flag, a key of a TOML file or a combination of settings that cannot be honoured."""


class LayoutError(MlTrainError):
    """A parallel layout that the model, the batch or the number of processes does not allow."""


class StartError(LayoutError):
    """Processes of the run that cannot start or do not meet, so that the layout is incomplete."""


class CheckpointError(MlTrainError):
    """A checkpoint that is absent, damaged, or another model's."""


class DataError(MlTrainError):
    """Token files that are absent, damaged, too short, or made with another tokenizer."""


class TrainingError(MlTrainError):
    """Training that cannot go on: a loss or gradient that is not finite."""


EXIT_CODES: Mapping[type[BaseException], int] = MappingProxyType(
    {
        **MODEL_EXIT_CODES,
        MlDataError: FAILED,
        UsageError: BAD_USAGE,
        MlTrainError: FAILED,
        ConfigError: BAD_USAGE,
        LayoutError: BAD_USAGE,
        StartError: FAILED,
    }
)
"""Error -> exit code of a command. The nearest base class of an error counts."""
