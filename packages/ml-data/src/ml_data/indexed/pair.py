"""Whether the two files of a pair are there, and what the header of its .idx states."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ml_data.errors import FormatError
from ml_data.indexed import layout
from ml_data.indexed.prefixes import prefixes_in

_ENDINGS = (".bin", ".idx", ".json")


def require_pair(prefix: str | Path) -> None:
    """Raise FormatError where P.idx or P.bin is no file.

    The message names an ending that should be left away, and the pairs in a given folder.
    """
    for path in (layout.idx_path(prefix), layout.bin_path(prefix)):
        if path.is_file():
            continue
        if path.is_dir():
            raise FormatError(f"{path} is a folder; a dataset is a pair of .bin and .idx files")
        meant = _without_ending(str(prefix))
        hint = f". Leave the ending away: {meant}" if meant else ""
        if os.path.isdir(prefix):
            inside = prefixes_in(prefix)
            hint = f". {prefix} is a folder" + (f"; the prefixes in it: {inside}" if inside else "")
        raise FormatError(f"{path} does not exist; a dataset is a pair of .bin and .idx{hint}")


def _without_ending(prefix: str) -> str | None:
    """The prefix that was meant, where the name of one of the files was given."""
    for ending in _ENDINGS:
        meant = prefix.removesuffix(ending)
        if meant != prefix and layout.idx_path(meant).is_file():
            return meant
    return None


def read_header(path: Path) -> tuple[np.dtype, int, int]:
    """(dtype, sequences, document marks) of the .idx at `path`, whose size is as they say.

    Raises FormatError where it is no .idx, is damaged or cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(layout.HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    dtype, num_sequences, num_marks = layout.unpack_header(header, path)
    expected = layout.idx_bytes(num_sequences, num_marks)
    if size != expected or num_marks < 1:
        raise FormatError(
            f"{path} has {size} bytes; {num_sequences} sequences and {num_marks} document indices "
            f"need {expected}: truncated or damaged"
        )
    return dtype, num_sequences, num_marks
