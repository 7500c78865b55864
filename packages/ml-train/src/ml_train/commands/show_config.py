"""ml-train show-config: every value of a run and where it came from, as TOML for --config."""

import argparse

from ml_models.errors import ConfigError as ModelConfigError
from ml_models.kernels.selection import choose
from ml_models.kernels.table import OPERATIONS
from ml_models.platforms import device_type
from ml_train import terminal
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import LoadedConfig, load_config
from ml_train.config.written import toml_value
from ml_train.errors import ConfigError

DESCRIPTION = (
    "Print every setting with its value and origin, and the form of each operation of the layers "
    "on this machine; what is printed is valid TOML."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration flags, nothing else."""
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print the settings, then the forms. ConfigError, after both, where a form is refused."""
    loaded = load_config(given_flags(args))
    terminal.result(render(loaded), end="")
    table, refusals = forms_table(loaded)
    terminal.result(table, end="")
    if refusals:
        raise ConfigError("\n".join(refusals))
    return 0


def forms_table(loaded: LoadedConfig) -> tuple[str, list[str]]:
    """Operation, form and reason in lines that TOML reads as comments; the refused requests."""
    config = loaded.config
    device = device_type(config.training.device)
    situation, settings = loaded.situation(device), config.kernels.settings()
    rows, refusals = [("operation", "form", "reason")], []
    for name, operation in OPERATIONS.items():
        try:
            choice = choose(operation, situation, getattr(settings, name))
            rows.append((name, choice.form, choice.reason))
        except ModelConfigError as error:
            rows.append((name, "refused", "see the error"))
            refusals.append(str(error))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"# {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    heading = f"# The form of each operation on {device}; docs/kernels.md explains them:"
    return "\n".join(("", heading, *lines, "")), refusals


def render(loaded: LoadedConfig) -> str:
    """TOML with an origin behind each value; a value that is unset is a comment."""
    lines: list[str] = [f"# warning: {warning}" for warning in loaded.warnings]
    section = ""
    for key, value, origin in loaded.table():
        table, _, name = key.partition(".")
        if table != section:
            lines += ["", f"[{table}]"]
            section = table
        text = f"{name} = {toml_value(value)}" if value is not None else f"# {name} is unset"
        lines.append(f"{text:<52} # {origin}")
    return "\n".join(lines).lstrip("\n") + "\n"
