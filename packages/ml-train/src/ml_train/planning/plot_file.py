"""The file of a plan's picture. It is checked before anything is built."""

from pathlib import Path

from ml_train.errors import ConfigError, MlTrainError

FORMATS = ("png", "svg", "pdf")


class PlotError(MlTrainError):
    """A picture that cannot be written."""


def format_of(path: Path) -> str:
    """The format that the name ends in, such as svg. Raises ConfigError."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise ConfigError(f"--plot is {path}; rule: a file name that ends in {known}.")
    if path.is_dir():
        raise ConfigError(f"--plot is {path}, which is a folder; give the name of a file in it.")
    return kind
