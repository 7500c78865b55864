"""Exceptions that a user of ml_data can cause, and nothing else."""


class MlDataError(Exception):
    """Base of every error of this package; the text names the value, the rule and the fix."""


class InputError(MlDataError):
    """An input file is missing, damaged, or lacks what was asked of it."""


class TokenizerError(MlDataError):
    """A tokenizer cannot be loaded or does not fit."""


class FormatError(MlDataError):
    """A .bin/.idx pair or its manifest is damaged or inconsistent."""


class OutputError(MlDataError):
    """The output cannot be written."""


class WorkerError(MlDataError):
    """A worker process died; finished shards are kept for the next run."""


class UsageError(MlDataError):
    """An option has a value that it cannot have; exit code 2."""
