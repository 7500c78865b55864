"""Durable files: checksums, syncing, and errors of the file system as sentences for the user."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ml_data.errors import OutputError
from ml_data.notices import Notice, ignore_notice

BLOCK_BYTES = 1 << 20
# CIFS, several FUSE file systems and old NFS servers answer fsync with these errors. Errors of the
# disk itself (EIO, ENOSPC) are not among them, as they must end the run.
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
# A folder that a user may write but not list cannot be opened, and therefore not be synced.
_NO_OPEN = {errno.EACCES, errno.EPERM, errno.EISDIR}
_FIXES = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder, then run again",
    errno.EDQUOT: "the quota is used up: free some space, then run again",
    errno.EFBIG: "the limit on file sizes (ulimit -f) is reached: raise it, then run again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission to write there: choose another folder or change its owner",
    errno.EPERM: "no permission to write there: choose another folder or change its owner",
    errno.ENOTDIR: "a part of the path is a file: choose another folder",
    errno.EEXIST: "a file of that name is in the way: choose another name or move it away",
    errno.ENAMETOOLONG: "the file system takes no name that long: choose a shorter one",
    errno.EXDEV: "the work folder lies on another file system: remove the link to it",
}


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Size and checksum of a file."""

    num_bytes: int
    sha256: str | None
    """None in a manifest that another program wrote."""
    other: Mapping[str, object] = field(default_factory=dict)
    """Facts that a newer version states."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FileFacts:
        """An entry of the section `files` of a manifest."""
        other = {name: value for name, value in values.items() if name not in ("bytes", "sha256")}
        return cls(num_bytes=values["bytes"], sha256=values.get("sha256"), other=other)

    def to_json(self) -> dict[str, object]:
        """As in a manifest."""
        checksum = {} if self.sha256 is None else {"sha256": self.sha256}
        return {"bytes": self.num_bytes, **checksum, **self.other}


@contextmanager
def reporting_output(what: str | Path) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError that names `what` and the fix."""
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


def sync_file(file: BinaryIO, notice: Notice = ignore_notice) -> None:
    """Make what was written to `file` durable.

    A file system that cannot do so is named to `notice`, and the run goes on.
    """
    file.flush()
    _sync(file.fileno(), str(file.name), notice)


def sync_directory(directory: Path, notice: Notice = ignore_notice) -> None:
    """Make renames in `directory` durable, where its file system can."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_OPEN:
            raise
        notice(_no_sync(str(directory), error))
        return
    try:
        _sync(handle, str(directory), notice)
    finally:
        os.close(handle)


def _sync(handle: int, name: str, notice: Notice) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        notice(_no_sync(name, error))


def _no_sync(name: str, error: OSError) -> str:
    # The sentence names the folder rather than the file, so that a run tells it once for all files.
    folder = name if os.path.isdir(name) else os.path.dirname(name) or "."
    return (
        f"the file system of {folder} cannot sync ({error.strerror}): a power cut in the next "
        "seconds may damage the output; ml-data verify would see it"
    )


def close_as_it_is(file: BinaryIO) -> None:
    """Close `file`, although its buffer may not be written, such as on a full disk."""
    with suppress(OSError):
        file.close()
