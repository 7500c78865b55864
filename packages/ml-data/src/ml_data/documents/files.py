"""Inputs to files, in a fixed order: files, directories and globs."""

from __future__ import annotations

import glob
from pathlib import Path

from ml_data.errors import InputError

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")


def kind_of(path: Path) -> str | None:
    """'parquet', 'jsonl' or None for a name that is neither."""
    name = path.name.lower()
    if name.endswith(PARQUET):
        return "parquet"
    return "jsonl" if name.endswith(JSON_LINES) else None


def find_files(inputs: list[str]) -> list[Path]:
    """The files that `inputs` name, sorted within each directory or glob.

    Raises InputError for a missing path, an empty directory, an unknown suffix, an empty file.
    """
    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = sorted(one for one in path.rglob("*") if one.is_file() and kind_of(one))
        elif path.exists():
            found = [path]
        else:
            found = [Path(one) for one in sorted(glob.glob(given, recursive=True))]
        if not found:
            raise InputError(f"input {given}: no such file, or no parquet or JSON lines below it")
        files += found
    for path in files:
        if kind_of(path) is None:
            known = ", ".join(PARQUET + JSON_LINES)
            raise InputError(f"input {path}: unknown kind of file; known endings: {known}")
        if path.stat().st_size == 0:
            raise InputError(f"input {path} is empty (0 bytes): nothing to tokenize")
    return files
