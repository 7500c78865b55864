"""The list of files that a run reads: inputs in the order given, files sorted within an input.

Every file that an input names is in that list, is an error, or is left out with a reason that the
user is told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from ml_data.documents.sources.files import InputCandidate, InputCandidates, LeftOutFile
from ml_data.documents.sources.local import list_local
from ml_data.documents.sources.names import (
    is_facts,
    is_quarantine,
    is_token_file,
    kind_of,
    known_endings,
    may_be_manifest,
    work_folder_of,
)
from ml_data.documents.sources.remote import list_remote, without_query
from ml_data.documents.sources.source import SourceFile, reporting_input
from ml_data.errors import InputError, UsageError

TOKENS = "token files"
UNKNOWN = "their endings are not known"
FACTS = "they describe a data set, a tokenizer or a model"
ML_DATA = "ml-data wrote them"
SAME = "other names of files that are read"
EMPTY = "0 bytes: no documents"
# The layout of a repository in the hub's cache: the files below snapshots/ are links.
_REVISION = re.compile(
    r"(?P<cache>(.*/)?(datasets|models|spaces)--[^/]+)/snapshots/(?P<revision>[^/]+)/(?P<file>.+)"
)
_MANIFEST_MARK = b'"ml-data manifest"'
_NAMES_IN_A_NOTICE = 5
_BUCKETS = ("s3", "gs", "gcs", "abfs", "abfss")


@dataclass(frozen=True, kw_only=True)
class InputListing:
    """The files that a run reads, and what it leaves out of the folders and globs given."""

    sources: list[SourceFile]
    left_out: list[LeftOutFile]

    def notices(self) -> list[str]:
        """A sentence for each reason for which something is left out or empty."""
        names: dict[str, list[str]] = {}
        for entry in self.left_out:
            names.setdefault(entry.reason, []).append(str(entry))
        sentences = [
            f"not read: {enumerate_names(given)} ({reason})" for reason, given in names.items()
        ]
        empty = [source.name for source in self.sources if source.num_bytes == 0]
        return sentences + ([f"empty: {enumerate_names(empty)} ({EMPTY})"] if empty else [])


def resolve(inputs: Sequence[str], is_own: Callable[[str], bool] | None = None) -> InputListing:
    """The files that `inputs` name. `is_own` tells whether the run itself writes a local path.

    Raises InputError for a missing path, a dangling link, a folder that cannot be listed or holds
    no data, an unknown ending, a file named by two inputs, inputs without a single byte.
    """
    sources: list[SourceFile] = []
    left_out: list[LeftOutFile] = []
    seen: dict[Hashable, _ReadAs] = {}
    for given in inputs:
        files = _list(given)
        # Folder by folder, on every file system alike: the order decides about the output's bytes.
        files.candidates.sort(key=lambda candidate: candidate.source.name.split("/"))
        kept = _data_of(files, is_own or _is_never_own)
        if not kept:
            raise InputError(_nothing_of(given, files))
        _refuse_revisions(given, kept)
        sources += [candidate.source for candidate in _once(files, kept, given, seen)]
        left_out += files.left_out
    if not any(source.num_bytes for source in sources):
        names = enumerate_names([source.name for source in sources])
        raise InputError(f"input {names} is empty (0 bytes): nothing to tokenize")
    return InputListing(sources=sources, left_out=left_out)


def _list(given: str) -> InputCandidates:
    if not given.strip():
        raise InputError(f"input {given!r}: a path was expected; is a variable of the shell empty?")
    scheme, mark, rest = given.partition("://")
    # Without a bucket a store would list all buckets of the account, or fail in a way of its own.
    no_bucket = scheme.lower() in _BUCKETS and rest.startswith("/")
    if mark and (no_bucket or not rest):
        raise UsageError(f"input {given}: a bucket or a path was expected behind {scheme}://")
    if mark and scheme.lower() not in ("file", "local"):
        return list_remote(given)
    path = os.path.expanduser(rest if mark else given)
    # A file URI may be percent-encoded, as `Path.as_uri` writes it. A file of the name as it stands
    # comes first.
    if mark and not os.path.lexists(path):
        path = unquote(path)
    with reporting_input(lambda: f"input {given}: cannot be listed", is_local=True):
        return list_local(path)


def _is_never_own(_path: str) -> bool:
    return False


def _data_of(files: InputCandidates, is_own: Callable[[str], bool]) -> list[InputCandidate]:
    """The candidates that may hold documents.

    Of the others, those that were named are an error, and the rest is left out.
    """
    kept: list[InputCandidate] = []
    unknown: list[InputCandidate] = []
    work_folders: dict[str, None] = {}
    for candidate in files.candidates:
        source = candidate.source
        own = source.is_local and is_own(source.path)
        if candidate.is_named:
            _check_named(source, own)
            kept.append(candidate)
        elif folder := work_folder_of(source.name, files.listed):
            work_folders[f"{folder}/"] = None
        elif kind_of(source.name) is None:
            if not own:
                unknown.append(candidate)
        elif own or _is_of_ml_data(source, files.listed):
            files.leave_out(source.name, ML_DATA)
        elif is_facts(source.name):
            files.leave_out(source.name, FACTS)
        else:
            kept.append(candidate)
    for folder in work_folders:
        files.leave_out(folder, ML_DATA)
    names = {candidate.identity: candidate.source.name for candidate in kept}
    for candidate in unknown:
        # The cache of Hugging Face's hub keeps the data under names without an ending. The names
        # with an ending are links to them.
        read_as = names.get(candidate.identity)
        reason = TOKENS if is_token_file(candidate.source.name, files.listed) else UNKNOWN
        files.leave_out(candidate.source.name, SAME if read_as else reason, read_as)
    return kept


def _check_named(source: SourceFile, own: bool) -> None:
    if own:
        raise InputError(
            f"input {source.name} belongs to the output of this very run: its own files are never "
            "its inputs. Name other files or another --output-prefix"
        )
    if kind_of(source.name) is None:
        raise InputError(
            f"input {source.name}: unknown kind of file; known endings: {known_endings()}"
        )


def _is_of_ml_data(source: SourceFile, listed: Container[str]) -> bool:
    if is_quarantine(source.name, listed):
        return True
    if not may_be_manifest(source.name, listed):
        return False
    with (
        reporting_input(lambda: f"{source.name}: cannot be read", is_local=source.is_local),
        source.open_stream() as stream,
    ):
        return _MANIFEST_MARK in stream.read(200)


@dataclass(frozen=True)
class _ReadAs:
    """The name under which a file is read, and the input that names it."""

    name: str
    given: str


def _once(
    files: InputCandidates,
    candidates: list[InputCandidate],
    given: str,
    seen: dict[Hashable, _ReadAs],
) -> list[InputCandidate]:
    """Each file under a single name, its own rather than that of a link; adds them to `seen`.

    A second name within an input, and a link to a file that is read already, are left out. A file
    that two inputs name is an error, since only the user can tell which of them was meant.
    """
    real_first = sorted(candidates, key=lambda candidate: candidate.is_link)
    names = {candidate.identity: candidate.source.name for candidate in reversed(real_first)}
    kept = []
    for candidate in candidates:
        earlier = seen.get(candidate.identity)
        name = candidate.source.name
        if earlier is not None and not candidate.is_link:
            other = "" if earlier.name == name else f" is the file {earlier.name} and"
            raise InputError(
                f"input {name}{other} is named twice, by {without_query(earlier.given)} and by "
                f"{without_query(given)}: its documents would be doubled"
            )
        if earlier is not None:
            files.leave_out(name, SAME, earlier.name)
        elif names[candidate.identity] != name:
            files.leave_out(name, SAME, names[candidate.identity])
        else:
            kept.append(candidate)
    for candidate in kept:
        seen[candidate.identity] = _ReadAs(candidate.source.name, given)
    return kept


def _refuse_revisions(given: str, candidates: list[InputCandidate]) -> None:
    """A cache of Hugging Face's hub keeps old revisions of a file beside the new one."""
    first: dict[tuple[str, str], InputCandidate] = {}
    for candidate in candidates:
        match = _REVISION.match(candidate.source.name)
        if match is None:
            continue
        other = first.setdefault((match["cache"], match["file"]), candidate)
        if other.identity != candidate.identity:
            folder = candidate.source.name.removesuffix(match["file"])
            raise InputError(
                f"input {without_query(given)} holds two revisions of a data set, "
                f"{other.source.name} and {candidate.source.name}: name the folder of one of them, "
                f"such as {folder}"
            )


def _nothing_of(given: str, files: InputCandidates) -> str:
    reasons = [f"{entry} ({entry.reason})" for entry in files.left_out]
    passed = f"; not read: {enumerate_names(reasons)}" if reasons else ""
    return (
        f"input {without_query(given)}: no such file, or no parquet or JSON lines below it{passed}"
    )


def enumerate_names(names: Iterable[str]) -> str:
    """The first names in a row, and how many more there are."""
    every = list(names)
    shown = ", ".join(every[:_NAMES_IN_A_NOTICE])
    more = len(every) - _NAMES_IN_A_NOTICE
    return f"{shown} and {more:,} more" if more > 0 else shown
