"""P.json, the manifest beside a pair: how one is told from any other file, and read.

A manifest that this package wrote says so in its first field. Any other file of that name, such as
a raw `corpus.json` beside `corpus.bin`, is somebody's data: it is never replaced, and `inspect`,
`verify`, `merge` and `split` pass it over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_data.errors import FormatError
from ml_data.indexed import layout

FORMAT = "ml-data manifest"
FORMAT_VERSION = 1
_HEAD_BYTES = 4096
# A manifest that another program wrote again may have its fields in any order; one with a million
# inputs is still below this.
_MOST_BYTES = 256 << 20
_WAY_OUT = "Copy it again from where it is whole, or move it away to use the pair without it"
_KINDS: dict[str, type] = {
    "format_version": int, "dtype": str, "num_documents": int, "num_sequences": int,
    "num_tokens": int, "files": dict, "tokenizer": dict, "options": dict, "ledger": dict,
    "inputs": list, "run": dict,
}  # fmt: skip
_REQUIRED = ("format_version", "files")


def is_manifest(path: Path) -> bool:
    """Whether the file at `path` is a manifest of this package, damaged or not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.lstrip().startswith(b"{"):
        return False
    if f'"{FORMAT}"'.encode() in head:
        return True
    if len(head) < _HEAD_BYTES or path.stat().st_size > _MOST_BYTES:
        return False
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def read_manifest(prefix: str | Path) -> dict[str, Any] | None:
    """The manifest beside `prefix`; None when there is no file of that name.

    `format_version` and `files` are there, and every field that is there is of its kind;
    `tokenizer`, `options`, `ledger`, `inputs` and `run` are absent where nothing is known.
    Raises FormatError for a file that is no manifest, is damaged, or is of a later version.
    """
    path = layout.manifest_path(prefix)
    if not path.exists():
        return None
    try:
        if not is_manifest(path):
            raise FormatError(f"{path} is not a manifest of ml-data")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is a damaged manifest: {error}. {_WAY_OUT}") from error
    _check_fields(values, path)
    return {name: value for name, value in values.items() if value is not None or name == "key"}


def known_manifest(prefix: str | Path) -> dict[str, Any] | None:
    """As `read_manifest`, but None where somebody else's file has that name."""
    return read_manifest(prefix) if is_manifest(layout.manifest_path(prefix)) else None


def _check_fields(values: dict[str, Any], path: Path) -> None:
    for name, kind in _KINDS.items():
        value = values.get(name)
        if value is None and name not in _REQUIRED:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FormatError(
                f"{path} is a damaged manifest: its field {name!r} is {value!r}. {_WAY_OUT}"
            )
    if values["format_version"] > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format version {values['format_version']}, this ml-data reads up to "
            f"{FORMAT_VERSION}: install a newer one"
        )
    for name, facts in values["files"].items():
        if not isinstance(facts, dict) or not isinstance(facts.get("bytes"), int):
            raise FormatError(
                f"{path} is a damaged manifest: the size of {name!r} is missing. {_WAY_OUT}"
            )


def listed_bytes(manifest: dict[str, Any], suffix: str) -> int | None:
    """Size of the pair's file with this suffix as its manifest lists it; None where it does not.

    By the suffix, as a pair that was renamed keeps its manifest.
    """
    for name, facts in manifest["files"].items():
        if name.endswith(suffix):
            return int(facts["bytes"])
    return None
