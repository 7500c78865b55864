"""List what a URI names: an object, everything below a prefix, or the matches of a glob.

Arrow's file systems serve s3, gs, abfs and hdfs without further packages. fsspec serves every other
scheme.
"""

from __future__ import annotations

import posixpath
import re
import string
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from pyarrow import fs as arrow_fs

from ml_data.documents.sources.files import NO_FILE, InputCandidate, InputCandidates
from ml_data.documents.sources.names import kind_of
from ml_data.documents.sources.patterns import select, split_pattern
from ml_data.documents.sources.source import SourceFile, reporting_input
from ml_data.errors import InputError

if TYPE_CHECKING:
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

_ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
# Names that Hadoop uses.
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
# Names under which file systems of fsspec give the time of the last change.
_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "created")
_QUERY = re.compile(r"\?(?=[\w.-]+=)")


def without_query(given: str) -> str:
    """`given` for messages: the query of a URI may hold secret keys."""
    return _QUERY.split(given, maxsplit=1)[0] if "://" in given else given


def list_remote(given: str) -> InputCandidates:
    """The objects behind a URI; none when there is nothing of that name."""
    scheme, _, rest = given.partition("://")
    scheme = _ALIASES.get(scheme.lower(), scheme.lower())
    # A URL may have any query. Other schemes have `?` as a wildcard, too: there only `?name=value`
    # begins a query.
    if scheme in ("http", "https"):
        path, mark, query = rest.partition("?")
    else:
        path, *more = _QUERY.split(rest, maxsplit=1)
        mark, query = ("?", more[0]) if more else ("", "")
    with reporting_input(lambda: f"input {without_query(given)}: cannot be listed", is_local=False):
        base, pattern = split_pattern(path)
        filesystem, root = _open_filesystem(f"{scheme}://{base}{mark}{query}", scheme)
        store, listing = _RemoteStore(filesystem), _UriListing(scheme, query)
        # An object or folder may be called `a[1]`: a name that exists is no pattern.
        exact = store.find("/".join([root, *pattern]))
        if exact is not None and exact.is_file:
            listing.add(store, exact, is_named=True)
        elif exact is not None and pattern:
            listing.add_below(store, exact.path, [])
        else:
            listing.add_below(store, root, pattern)
    return listing.files


def remote_state(source: SourceFile) -> tuple[int, int]:
    """(size in bytes, time of change in ns) of an object now, as when it was listed.

    Raises InputError when it is gone or cannot be asked for.
    """
    with reporting_input(lambda: f"input {source.name}", is_local=False):
        info = _RemoteStore(source.filesystem).find(source.path)
    if info is None or not info.is_file:
        raise InputError(f"input {source.name} is gone")
    return info.size or 0, info.modified_ns


class _UriListing:
    """Turns what a store lists into candidates."""

    def __init__(self, scheme: str, query: str) -> None:
        self.files = InputCandidates()
        self._scheme = scheme
        self._endpoint = parse_qs(query).get("endpoint_override", [""])[0]

    def add_below(self, store: _RemoteStore, root: str, pattern: list[str]) -> None:
        """Add what the pattern (empty for everything) selects below `root`."""
        # `folder/*.jsonl` lists the folder, not everything below it: a bucket may hold millions.
        one_level = len(pattern) == 1 and pattern[0] != "**"
        objects = self._one_level(store, root, pattern) if one_level else store.tree(root)
        hidden_folders: set[str] = set()
        for info in objects:
            if not info.is_folder:
                self.files.listed.add(self._name(info.path))
                self._select(store, info, root, pattern, hidden_folders)
        for folder in sorted(hidden_folders):
            self.files.leave_out_hidden(self._name(folder))

    def _one_level(self, store: _RemoteStore, root: str, pattern: list[str]) -> list[_RemoteEntry]:
        """The files in `root` and those below its folders that match; the rest is not listed."""
        objects = []
        for child in store.children(root):
            if not child.is_folder:
                objects.append(child)
                continue
            path = child.path.rstrip("/")
            matched = select([path.rpartition("/")[2], "file"], pattern)
            if matched is not None and matched.hidden is not None:
                self.files.leave_out_hidden(self._name(f"{path}/"))
            elif matched is not None:
                objects += store.tree(child.path)
        return objects

    def _select(
        self,
        store: _RemoteStore,
        info: _RemoteEntry,
        root: str,
        pattern: list[str],
        hidden_folders: set[str],
    ) -> None:
        names = info.path.removeprefix(root).strip("/").split("/")
        selected = select(names, pattern)
        if selected is None:
            return
        if selected.hidden is not None:
            if selected.hidden < len(names) - 1:
                folder = "/".join(names[: selected.hidden + 1])
                hidden_folders.add(f"{root.rstrip('/')}/{folder}/")
            elif kind_of(info.path):
                self.files.leave_out_hidden(self._name(info.path))
        elif not info.is_file:
            self.files.leave_out(self._name(info.path), NO_FILE)
        else:
            self.add(store, info, is_named=False)

    def _name(self, path: str) -> str:
        """The name for messages: without the query, which may hold secret keys."""
        if "://" not in path:
            return f"{self._scheme}://{path}"
        return path.partition("?")[0]

    def add(self, store: _RemoteStore, info: _RemoteEntry, *, is_named: bool) -> None:
        """Add an object."""
        name = self._name(info.path)
        if info.size is None:
            raise InputError(
                f"input {name}: the server does not tell its size, without which a run cannot be "
                "cut into shards: download it first"
            )
        source = SourceFile(
            name=name,
            path=info.path,
            filesystem=store.filesystem,
            num_bytes=info.size,
            modified_ns=info.modified_ns,
            is_local=False,
        )
        handler = getattr(store.filesystem, "handler", None)
        home: Hashable = handler.fs if handler is not None else (self._scheme, self._endpoint)
        # A server may take `in/./a` and `in/a` for the same object.
        identity = (home, posixpath.normpath(info.path))
        candidate = InputCandidate(source=source, identity=identity, is_named=is_named)
        self.files.candidates.append(candidate)


@dataclass(frozen=True, kw_only=True)
class _RemoteEntry:
    """What a file system states of a path; `size` is None where it is not known."""

    path: str
    is_folder: bool
    is_file: bool
    size: int | None
    modified_ns: int


class _RemoteStore:
    """A file system as a listing needs it: find a name, list a folder, list a tree.

    fsspec's file systems are called directly. Arrow would use their general listing, which skips
    folders that it cannot list without a word.
    """

    def __init__(self, filesystem: arrow_fs.FileSystem) -> None:
        self.filesystem = filesystem
        handler = getattr(filesystem, "handler", None)
        self._opened = handler.fs if handler is not None else None

    def find(self, path: str) -> _RemoteEntry | None:
        """The object or folder of exactly this name."""
        if self._opened is None:
            info = self.filesystem.get_file_info(path)
            return None if info.type == arrow_fs.FileType.NotFound else _of_arrow(info)
        try:
            return _of_fsspec(self._opened.info(path))
        except FileNotFoundError:
            return None

    def children(self, folder: str) -> list[_RemoteEntry]:
        """What is directly in a folder; nothing when there is no such folder."""
        if self._opened is None:
            selector = arrow_fs.FileSelector(folder, allow_not_found=True)
            return list(map(_of_arrow, self.filesystem.get_file_info(selector)))
        try:
            facts = self._opened.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        # A bucket may list the folder itself.
        objects = map(_of_fsspec, facts)
        return [child for child in objects if child.path.strip("/") != folder.strip("/")]

    def tree(self, folder: str) -> list[_RemoteEntry]:
        """Everything below a folder."""
        if self._opened is None:
            selector = arrow_fs.FileSelector(folder, recursive=True, allow_not_found=True)
            return list(map(_of_arrow, self.filesystem.get_file_info(selector)))
        if _lists_flat(self._opened):
            return list(map(_of_fsspec, self._opened.find(folder, detail=True).values()))
        listed, folders = [], [folder]
        while folders:
            for child in self.children(folders.pop()):
                listed.append(child)
                if child.is_folder:
                    folders.append(child.path)
        return listed


def _of_arrow(info: arrow_fs.FileInfo) -> _RemoteEntry:
    return _RemoteEntry(
        path=info.path,
        is_folder=info.type == arrow_fs.FileType.Directory,
        is_file=info.type == arrow_fs.FileType.File,
        size=info.size,
        modified_ns=info.mtime_ns or 0,
    )


def _of_fsspec(facts: dict[str, Any]) -> _RemoteEntry:
    modified = next((facts[key] for key in _MODIFIED if facts.get(key) is not None), 0.0)
    if isinstance(modified, datetime):
        modified = modified.timestamp()
    return _RemoteEntry(
        path=facts["name"],
        is_folder=facts["type"] == "directory",
        is_file=facts["type"] == "file",
        size=facts.get("size"),
        modified_ns=round(modified * 1e9) if isinstance(modified, (int, float)) else 0,
    )


def _lists_flat(opened: AbstractFileSystem | AsyncFileSystem) -> bool:
    """Whether a file system of fsspec lists a whole tree by itself, as buckets do."""
    # Here, as fsspec is optional: `_open_filesystem` has imported it.
    from fsspec import asyn, spec

    if isinstance(opened, asyn.AsyncFileSystem):
        return type(opened)._find is not asyn.AsyncFileSystem._find
    return type(opened).find is not spec.AbstractFileSystem.find


def _open_filesystem(uri: str, scheme: str) -> tuple[arrow_fs.FileSystem, str]:
    try:
        if scheme in _ARROW_SCHEMES:
            # Arrow takes percent-encoded URIs, and users write spaces and umlauts as they are.
            filesystem, path = arrow_fs.FileSystem.from_uri(quote(uri, safe=string.punctuation))
            return filesystem, path
        import fsspec  # optional, and not needed for the schemes above
    except ImportError as error:
        raise InputError(
            f"input {without_query(uri)}: the scheme {scheme}:// needs fsspec: "
            "pip install 'ml-data[remote]'"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"input {without_query(uri)}: {error}") from error
    try:
        opened, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"input {without_query(uri)}: fsspec cannot open it: {error}") from error
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(opened)), path
