"""Text and TOML files that a user wrote: UTF-8, with or without the mark that editors put first."""

import sys
from pathlib import Path
from typing import Any

from ml_train.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def toml_document(path: Path, flag: str) -> dict[str, Any]:
    """The document in a TOML file that a flag names. Raises ConfigError."""
    try:
        return tomllib.loads(read_text(path, flag))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{flag} {path} is not TOML: {error}.") from error


def read_text(path: Path, flag: str) -> str:
    """The text of a file that a flag names. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            fault = "it is UTF-16"
        else:
            line = data[: error.start].count(b"\n") + 1
            fault = f"line {line} holds the byte 0x{data[error.start]:02x}"
        raise ConfigError(f"{flag} {path} is not UTF-8: {fault}. Save it as UTF-8.") from error
