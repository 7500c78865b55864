"""What ml_train raises for a user's mistake: one small tree, one message each.

A message says what was given, the rule it broke, and what to do instead. The command line prints
that message alone and ends with 1 (a run that failed) or 2 (a command that makes no sense).
"""


class MlTrainError(Exception):
    """Root of every error that ml_train raises on purpose."""


class ConfigError(MlTrainError):
    """A flag, a key of a TOML file or a combination of settings that cannot be honoured."""


class LayoutError(MlTrainError):
    """A parallel layout that the model, the batch or the number of processes does not allow."""


class CheckpointError(MlTrainError):
    """A checkpoint that is absent, damaged, or another model's."""


class DataError(MlTrainError):
    """Token files that are absent, damaged, too short, or made with another tokenizer."""


class TrainingError(MlTrainError):
    """Training that cannot go on: a loss or gradient that is not finite."""
