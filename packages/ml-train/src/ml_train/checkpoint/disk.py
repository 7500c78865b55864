"""The few ways in which this package writes to the disk, in one place.

Tests replace `create` to make the disk full.
"""

import os
from pathlib import Path
from typing import BinaryIO


def create(path: Path) -> BinaryIO:
    """Open a new file for writing."""
    return open(path, "wb", buffering=1 << 20)


def flush(stream: BinaryIO) -> None:
    """Down to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def write(path: Path, data: bytes) -> None:
    """A small file, flushed to the disk."""
    with create(path) as stream:
        stream.write(data)
        flush(stream)


def flush_folder(path: Path) -> None:
    """Make names in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
