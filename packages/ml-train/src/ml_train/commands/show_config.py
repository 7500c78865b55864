"""ml-train show-config: every value of a run and where it came from, as TOML for --config."""

import argparse
import json

from ml_train import terminal
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import LoadedConfig, load_config

DESCRIPTION = "Print every setting with its value and origin; what is printed is valid TOML."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration flags, nothing else."""
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    loaded = load_config(given_flags(args))
    terminal.result(render(loaded), end="")
    return 0


def render(loaded: LoadedConfig) -> str:
    """TOML with an origin behind each value; a value that is unset is a comment."""
    lines: list[str] = [f"# warning: {warning}" for warning in loaded.warnings]
    section = ""
    for key, value, origin in loaded.table():
        table, _, name = key.partition(".")
        if table != section:
            lines += ["", f"[{table}]"]
            section = table
        text = f"{name} = {_toml(value)}" if value is not None else f"# {name} is unset"
        lines.append(f"{text:<52} # {origin}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return repr(value)
