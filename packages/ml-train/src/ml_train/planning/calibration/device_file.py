"""The device file of a calibration: the figures of a device as makers state them, and [[measured]].

`ml-train plan --device FILE.toml` reads both. A file with the figures alone is a device too.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_models.files.durable import write_durably
from ml_train.errors import ConfigError
from ml_train.planning.calibration.checked import FaultyTableError
from ml_train.planning.calibration.measured import Measured, from_table, to_table

KEY = "measured"
"""Of the list of tables in a device file."""
_HEAD = "# Written by ml-train plan --calibrate. docs/planning.md says what the figures mean.\n"


def check_target(path: Path) -> None:
    """Raise ConfigError unless a calibration may write `path`: a new file, or one of its own."""
    if path.suffix != ".toml":
        raise ConfigError(f"--calibrate {path}: the name must end in .toml, as that of a device.")
    if not path.parent.is_dir():
        raise ConfigError(f"--calibrate {path}: the folder {path.parent} does not exist.")
    if path.exists() and not path.is_file():
        raise ConfigError(f"--calibrate {path} is not a file; name a file.")
    if path.exists() and not path.read_bytes().startswith(_HEAD.encode()):
        raise ConfigError(
            f"--calibrate {path} exists and was not written by a calibration; it is left alone. "
            "Name another file."
        )


def write(path: Path, figures: Mapping[str, object], measured: Sequence[Measured]) -> None:
    """Write the file under a temporary name and rename it. Raises OSError."""
    lines = [_HEAD, *(f"{key} = {_text(value)}\n" for key, value in figures.items())]
    for item in measured:
        lines.append(f"\n[[{KEY}]]\n")
        lines += _table_lines(KEY, to_table(item))
    write_durably(path, "".join(lines))


def read_measured(value: object, path: Path) -> tuple[Measured, ...]:
    """The tables [[measured]] of a file, by rising number of processes. Raises ConfigError."""
    try:
        if not isinstance(value, list):
            raise FaultyTableError(f"{KEY} must be a list of tables, [[{KEY}]]")
        tables = [from_table(item, f"{KEY}[{index}]") for index, item in enumerate(value)]
    except FaultyTableError as error:
        raise ConfigError(
            f"{path}: {error}. Measure again: ml-train plan --calibrate FILE.toml."
        ) from error
    ordered = tuple(sorted(tables, key=lambda item: item.processes))
    numbers = [item.processes for item in ordered]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{path}: two tables [[{KEY}]] have the same number of processes.")
    return ordered


def for_processes(measured: Sequence[Measured], processes: int) -> Measured:
    """The table of so many processes: the next larger number, or the largest that there is."""
    enough = [item for item in measured if item.processes >= processes]
    return min(enough or [measured[-1]], key=lambda item: item.processes)


def _table_lines(prefix: str, table: Mapping[str, object]) -> list[str]:
    # A table's own values come before its sub-tables, as a value belongs to the table above it.
    lines = [
        f"{key} = {_text(value)}\n"
        for key, value in table.items()
        if not isinstance(value, Mapping)
    ]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines.append(f"[{prefix}.{key}]\n")
            lines += _table_lines(f"{prefix}.{key}", value)
    return lines


def _text(value: object) -> str:
    """A number, a text, a list, or a table in one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_text(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, float):
        # Six digits are more than a measurement has, and a file that people can read.
        assert math.isfinite(value)
        return repr(float(f"{value:.6g}"))
    # JSON's texts, whole numbers and truth values are TOML's.
    return json.dumps(value)
