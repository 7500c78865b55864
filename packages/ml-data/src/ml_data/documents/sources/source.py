"""An input file, and errors of its file system as InputError."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from ml_data.documents.sources.names import compression_of, kind_of
from ml_data.errors import InputError, MlDataError


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """An input file: `name` as the user knows it, `path` inside `filesystem`."""

    name: str
    path: str
    filesystem: fs.FileSystem
    num_bytes: int
    modified_ns: int
    is_local: bool

    @property
    def kind(self) -> str:
        """'parquet' or 'jsonl'."""
        return kind_of(self.name) or "jsonl"

    @property
    def compression(self) -> str | None:
        """gzip, zstd, bz2, xz or lz4 for compressed JSON lines; None for plain text."""
        return compression_of(self.name)

    def open_file(self) -> pa.NativeFile:
        """The raw bytes, with random access."""
        # Arrow cannot open names that are not UTF-8; Python can, a little slower.
        if self.is_local and not _is_utf8(self.path):
            return pa.PythonFile(open(self.path, "rb"), mode="r")
        return self.filesystem.open_input_file(self.path)

    def open_stream(self) -> pa.NativeFile:
        """The raw bytes in order."""
        if self.is_local:
            return self.open_file()
        return self.filesystem.open_input_stream(self.path, compression=None)


def _is_utf8(path: str) -> bool:
    """Whether Arrow, which takes every name for UTF-8, can open the file at `path`.

    Python keeps the bytes of other names as surrogates, or decodes them by the locale's encoding.
    """
    try:
        return path.encode("utf-8") == os.fsencode(path)
    except UnicodeEncodeError:
        return False


@contextmanager
def reporting_input(what: Callable[[], str], *, is_local: bool) -> Iterator[None]:
    """Turn what a file system raises into an InputError that starts with `what()`.

    Any exception of a remote file system is turned: those of fsspec raise what their network
    libraries raise.
    """
    try:
        yield
    except MlDataError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{what()}: {error}") from error
    except Exception as error:
        if is_local:
            raise
        raise InputError(f"{what()}: {type(error).__name__}: {error}") from error


def source_checksum(source: SourceFile, which: str) -> str | None:
    """sha256 of the file, where `which` (all, local, none) asks for it."""
    if which == "none" or (which == "local" and not source.is_local):
        return None
    digest = hashlib.sha256()
    with (
        reporting_input(lambda: f"{source.name}: cannot be read", is_local=source.is_local),
        source.open_stream() as stream,
    ):
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
