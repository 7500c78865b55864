"""Whether a file that already has a name of an output is an output of this package.

The content of a file decides, never its name:

| file | an output of this package when |
|---|---|
| `.json` | it begins as a manifest |
| `.idx` | it has Megatron's mark and the size that its header needs |
| `.bin` | the manifest or the index beside it states its size |
| `.quarantine.jsonl` | the manifest states its size; without one, it begins with a row set aside |

Links, folders and devices are none. A file that was changed after it was made is none, such as a
quarantine that the user corrected: its size is not the stated size any more.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from ml_data.errors import FormatError
from ml_data.indexed import layout
from ml_data.indexed.manifest import Manifest, is_manifest, known_manifest

QUARANTINE = ".quarantine.jsonl"
SUFFIXES = (".json", QUARANTINE, ".bin", ".idx")
"""All files that an output can have, in the order in which they get their final names."""
_ROW_FIELDS = {"source", "key", "row", "reason"}


def quarantine_path(prefix: str | Path) -> Path:
    """`prefix` plus `.quarantine.jsonl`."""
    return Path(f"{prefix}{QUARANTINE}")


def stranger(prefix: str | Path, suffix: str, sealed_idx: Path | None = None) -> str | None:
    """Why the file `prefix` + `suffix` is not this package's own; None when it is, or is missing.

    `sealed_idx` is an index that did not get its final name before its writer was killed.
    """
    path = Path(f"{prefix}{suffix}")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        return "it is a link" if stat.S_ISLNK(mode) else "it is not a regular file"
    if suffix == ".json":
        return None if is_manifest(path) else "it is not a manifest of ml-data"
    size, manifest = path.stat().st_size, _manifest_or_none(prefix)
    stated = manifest.listed_bytes(suffix) if manifest else None
    if size == stated:
        return None
    if suffix == QUARANTINE:
        if manifest is not None:
            return _differs(size, stated, "manifest")
        return None if _is_quarantine(path) else "it holds no rows that ml-data set aside"
    if suffix == ".idx":
        return _why_no_index(path, size)
    return _why_no_bin(prefix, size, stated, sealed_idx)


def _why_no_index(path: Path, size: int) -> str | None:
    """Why the file at `path` is no .idx of its size; None when it is."""
    needed = _size_by_header(path)
    if needed is None:
        return "it does not start with the mark of an .idx file"
    return None if size == needed else _differs(size, needed, "header")


def _why_no_bin(
    prefix: str | Path, size: int, stated: int | None, sealed_idx: Path | None
) -> str | None:
    """Why a .bin of `size` bytes belongs to no index here; None when it does."""
    idx = layout.idx_path(prefix)
    for index in (idx, sealed_idx):
        if index is not None and index.is_file() and size == bin_bytes_of(index):
            return None
    if stated is None and not idx.is_file():
        return "no index and no manifest of ml-data belongs to it"
    return _differs(size, stated or bin_bytes_of(idx), "manifest or index")


def _differs(size: int, stated: int | None, by: str) -> str:
    if stated is None:
        return f"its {by} does not list it"
    return f"it has {size} bytes, its {by} says {stated}: it was changed since it was made"


def _manifest_or_none(prefix: str | Path) -> Manifest | None:
    try:
        return known_manifest(prefix)
    except FormatError:
        return None


def _size_by_header(path: Path) -> int | None:
    with path.open("rb") as file:
        header = file.read(layout.HEADER.size)
    try:
        _, num_sequences, num_marks = layout.unpack_header(header, path)
    except FormatError:
        return None
    return layout.idx_bytes(num_sequences, num_marks)


def bin_bytes_of(path: Path) -> int | None:
    """Size of the .bin that the index at `path` needs; None where it is no whole index.

    The end of its last sequence: sequences lie one after the other.
    """
    needed = _size_by_header(path)
    if needed is None or path.stat().st_size != needed:
        return None
    with path.open("rb") as file:
        dtype, num_sequences, _ = layout.unpack_header(file.read(layout.HEADER.size), path)
        if num_sequences == 0:
            return 0
        file.seek(layout.HEADER.size + 4 * (num_sequences - 1))
        length = int.from_bytes(file.read(4), "little", signed=True)
        file.seek(layout.HEADER.size + 4 * num_sequences + 8 * (num_sequences - 1))
        pointer = int.from_bytes(file.read(8), "little", signed=True)
    return pointer + length * dtype.itemsize


def _is_quarantine(path: Path) -> bool:
    with path.open("rb") as file:
        # A row may hold a whole document. The limit keeps a binary file out of memory.
        line = file.readline(64 << 20)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and set(row) >= _ROW_FIELDS


def exists(path: Path) -> bool:
    """Whether the name is taken; by a dangling link, too."""
    return os.path.lexists(path)
