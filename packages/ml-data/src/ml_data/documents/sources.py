"""Inputs to sources, in a fixed order: files, directories and globs, local or remote.

A remote input is a URI (`s3://bucket/folder`, `hf://...`). Arrow's own file systems serve s3, gs,
abfs and hdfs without further packages; every other scheme goes through fsspec.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs as arrow_fs

from ml_data.errors import InputError, MlDataError

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".json", ".ndjson")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
_ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input file: `name` as people know it, `path` inside `filesystem`."""

    name: str
    path: str
    filesystem: Any
    num_bytes: int
    modified_ns: int
    is_local: bool

    @property
    def kind(self) -> str:
        """'parquet' or 'jsonl'."""
        return kind_of(self.path) or "jsonl"

    @property
    def compression(self) -> str | None:
        """What Arrow calls the compression of a JSON lines file; None for plain text."""
        return next(
            (to for end, to in COMPRESSIONS.items() if self.path.lower().endswith(end)), None
        )


def kind_of(path: str) -> str | None:
    """'parquet', 'jsonl' or None for a name that is neither."""
    name = path.rsplit("/", 1)[-1].lower()
    if name.endswith(PARQUET):
        return "parquet"
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    return "jsonl" if name.endswith(JSON_LINES) else None


def find_sources(inputs: list[str]) -> list[Source]:
    """The files that `inputs` name, in the order given, sorted within a directory or glob.

    Raises InputError for a missing path, a directory without data, an unknown ending, an empty
    file, a file named twice.
    """
    sources: list[Source] = []
    for given in inputs:
        found = _remote(given) if "://" in given else _local(given)
        if not found:
            raise InputError(
                f"input {_without_query(given)}: no such file, or no parquet or JSON lines below it"
            )
        sources += found
    seen: set[str] = set()
    for source in sources:
        if kind_of(source.path) is None:
            known = ", ".join(PARQUET + JSON_LINES)
            raise InputError(
                f"input {source.name}: unknown kind of file; known endings: {known}, JSON lines "
                f"also with {', '.join(COMPRESSIONS)}"
            )
        if source.num_bytes == 0:
            raise InputError(f"input {source.name} is empty (0 bytes): nothing to tokenize")
        if source.name in seen:
            raise InputError(f"input {source.name} is named twice: its documents would be doubled")
        seen.add(source.name)
    return sources


@contextmanager
def reporting_input(what: Callable[[], str], *, is_local: bool) -> Iterator[None]:
    """Turn what a file system raises into an InputError that starts with `what()`.

    Remote file systems of fsspec raise whatever their network library does.
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


def _without_query(given: str) -> str:
    """For messages: the query of a URI may hold keys."""
    return given.split("?", 1)[0] if "://" in given and "=" in given else given


def _local(given: str) -> list[Source]:
    path = Path(given)
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if one.is_file() and kind_of(one.name))
    elif path.exists():
        found = [path]
    else:
        found = [Path(one) for one in sorted(glob.glob(given, recursive=True))]
        found = [one for one in found if one.is_file()]
    return [_local_source(one) for one in found]


def _local_source(path: Path) -> Source:
    facts = path.stat()
    return Source(
        name=str(path),
        path=str(path),
        filesystem=arrow_fs.LocalFileSystem(),
        num_bytes=facts.st_size,
        modified_ns=facts.st_mtime_ns,
        is_local=True,
    )


def _remote(given: str) -> list[Source]:
    scheme, _, rest = given.partition("://")
    query = ""
    if "=" in rest.rpartition("?")[2] and "?" in rest:
        rest, _, query = rest.rpartition("?")
    folders = rest.split("/")
    fixed = next((i for i, part in enumerate(folders) if _WILDCARDS & set(part)), len(folders))
    pattern = "/".join(folders[fixed:]) or None
    base = f"{scheme}://{'/'.join(folders[:fixed])}{'?' if query else ''}{query}"
    filesystem, root = _open_filesystem(base, scheme)
    with reporting_input(
        lambda: f"input {_without_query(given)}: cannot be listed", is_local=False
    ):
        info = filesystem.get_file_info(root)
        if info.type == arrow_fs.FileType.File:
            infos = [info]
        else:
            selector = arrow_fs.FileSelector(root, recursive=True, allow_not_found=True)
            infos = [one for one in filesystem.get_file_info(selector) if one.is_file]
            infos = [one for one in infos if _matches(one.path, root, pattern)]
    return [
        Source(
            # Without the query, which may hold keys.
            name=info.path if "://" in info.path else f"{scheme}://{info.path}",
            path=info.path,
            filesystem=filesystem,
            num_bytes=info.size or 0,
            modified_ns=info.mtime_ns or 0,
            is_local=False,
        )
        for info in sorted(infos, key=lambda one: one.path)
    ]


def source_checksum(source: Source, which: str) -> str | None:
    """sha256 of the file, where `which` (all, local, none) asks for it."""
    if which == "none" or (which == "local" and not source.is_local):
        return None
    digest = hashlib.sha256()
    with (
        reporting_input(lambda: f"{source.name}: cannot be read", is_local=source.is_local),
        source.filesystem.open_input_stream(source.path, compression=None) as stream,
    ):
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _matches(path: str, root: str, pattern: str | None) -> bool:
    if pattern is None:
        return kind_of(path) is not None
    below = path[len(root) :].lstrip("/").split("/")
    wanted = pattern.split("/")
    return len(below) == len(wanted) and all(map(fnmatch.fnmatch, below, wanted))


def _open_filesystem(uri: str, scheme: str) -> tuple[Any, str]:
    try:
        if scheme in _ARROW_SCHEMES:
            filesystem, path = arrow_fs.FileSystem.from_uri(uri)
            return filesystem, path
        import fsspec
    except ImportError as error:
        raise InputError(
            f"input {_without_query(uri)}: the scheme {scheme}:// needs fsspec: "
            "pip install 'ml-data[remote]'"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"input {_without_query(uri)}: {error}") from error
    try:
        opened, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"input {_without_query(uri)}: fsspec cannot open it: {error}") from error
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(opened)), path
