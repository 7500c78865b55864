"""Writes that survive a crash and a power cut.

A file has its final name only once all of its bytes are on the disk: it is written under a
temporary name, flushed and renamed. The folder is flushed afterwards, as the file system keeps a
rename in the folder and not in the file. Every function raises OSError where the disk is full.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def create(path: Path) -> BinaryIO:
    """Open a new file for writing. Tests replace this function to make a disk full or slow."""
    return open(path, "wb", buffering=2**20)


def flush_stream(stream: BinaryIO) -> None:
    """Bring everything written to `stream` to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def flush_file(path: Path) -> None:
    """Bring a closed file to the disk, which another library has written."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file of a folder that gets its own final name later."""
    with create(path) as stream:
        stream.write(content)
        flush_stream(stream)


@contextmanager
def replacing(path: Path, suffix: str = ".partial") -> Iterator[BinaryIO]:
    """A stream under a temporary name, which becomes `path` when the block ends without an error.

    The file at `path` has its old content or the whole new one, never a part. `suffix` makes the
    temporary name; a process that dies leaves the file of that name behind.
    """
    temporary = path.with_name(path.name + suffix)
    with create(temporary) as stream:
        yield stream
        # Before the rename: some file systems write a rename earlier than the content.
        flush_stream(stream)
    os.replace(temporary, path)


def write_durably(path: Path, text: str) -> None:
    """Write a small file, which then has its old or its new content, never a part."""
    with replacing(path) as stream:
        stream.write(text.encode())
    flush_folder(path.parent)
