"""Durable files: checksums, syncing, and the renames that make an output valid."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ml_data.errors import OutputError

BLOCK_BYTES = 1 << 20
_FIXES = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder, then run again",
    errno.EDQUOT: "the quota is used up: free some space, then run again",
    errno.EFBIG: "the limit on file sizes (ulimit -f) is reached: raise it, then run again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission to write there: choose another folder or change its owner",
    errno.EPERM: "no permission to write there: choose another folder or change its owner",
    errno.ENOTDIR: "a part of the path is a file: choose another folder",
}


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Size and checksum of a file."""

    num_bytes: int
    sha256: str

    def to_dict(self) -> dict[str, int | str]:
        """As in a manifest."""
        return {"bytes": self.num_bytes, "sha256": self.sha256}


@contextmanager
def reporting_output(what: str | Path) -> Iterator[None]:
    """Turn an OSError below into an OutputError that names `what` and the way out."""
    try:
        yield
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {what}: {fix}") from error


def checksum(path: Path, limit: int | None = None) -> hashlib._Hash:
    """Running sha256 over the first `limit` bytes of `path` (all of it by default)."""
    digest = hashlib.sha256()
    left = limit if limit is not None else path.stat().st_size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(BLOCK_BYTES, left))):
            digest.update(block)
            left -= len(block)
    return digest


def sync_file(file: BinaryIO) -> None:
    """Make what was written to `file` durable."""
    file.flush()
    os.fsync(file.fileno())


def close_as_it_is(file: BinaryIO) -> None:
    """Close `file`; what is still in its buffer may be lost, as after a write to a full disk."""
    with suppress(OSError):
        file.close()


def fsync_directory(directory: Path) -> None:
    """Make renames in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(moves: list[tuple[Path, Path]]) -> None:
    """Rename each (temporary, final) pair in order; the last one makes the output valid.

    Safe to repeat after a crash: a pair whose temporary name is gone was renamed already. A file
    left under the last name by an older run goes first, so that it never describes new data.
    """
    temporary, final = moves[-1]
    if temporary.exists():
        final.unlink(missing_ok=True)
    for temporary, final in moves:
        if temporary.exists():
            temporary.replace(final)
    for directory in {final.parent for _, final in moves}:
        fsync_directory(directory)
