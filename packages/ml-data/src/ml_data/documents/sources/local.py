"""List what a path names on this machine: a file, the files below a folder, the matches of a glob.

Links are followed, as the user means the data behind them. A folder or file that cannot be read is
an error: skipping it in silence would lose documents in silence.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pyarrow import fs as arrow_fs

from ml_data.documents.sources.files import NO_FILE, VISITED, InputCandidate, InputCandidates
from ml_data.documents.sources.names import is_hidden, kind_of
from ml_data.documents.sources.patterns import (
    has_wildcard,
    may_stand_for,
    select,
    split_pattern,
)
from ml_data.documents.sources.source import SourceFile
from ml_data.errors import InputError


def list_local(given: str) -> InputCandidates:
    """The files behind a path; none when there is nothing of that name."""
    path = str(Path(given)) + ("/" if given.endswith("/") and has_wildcard(given) else "")
    files = InputCandidates()
    # A file may be called `a[1].jsonl`, so a name that exists is no pattern.
    if os.path.lexists(path) or not has_wildcard(path):
        if os.path.lexists(path):
            _add_path(files, path, [])
        return files
    base, pattern = split_pattern(path)
    if path.startswith("/") and not base:
        base = "/"
    for matched, is_link, rest in _expand(files, base, pattern, is_link=False):
        _add_path(files, matched, rest, is_named=False, is_link=is_link)
    return files


def _add_path(
    files: InputCandidates,
    path: str,
    pattern: list[str],
    *,
    is_named: bool = True,
    is_link: bool = False,
) -> None:
    facts = _stat(path)
    if stat.S_ISDIR(facts.st_mode):
        _walk(files, path, pattern, is_link=is_link)
    elif not pattern:
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(
                f"input {path} is no regular file (a pipe or a device): ml-data reads files twice. "
                "Write the data to a file first"
            )
        files.candidates.append(_candidate(path, facts, is_named=is_named, is_link=is_link))


def _candidate(
    path: str, facts: os.stat_result, *, is_named: bool, is_link: bool
) -> InputCandidate:
    source = SourceFile(
        name=path,
        path=path,
        filesystem=arrow_fs.LocalFileSystem(),
        num_bytes=facts.st_size,
        modified_ns=facts.st_mtime_ns,
        is_local=True,
    )
    # Some network file systems give files no number. Others use a number again for a new file, so
    # size and time are part of the identity.
    number = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    identity: Hashable = number if facts.st_ino else os.path.realpath(path)
    return InputCandidate(source=source, identity=identity, is_named=is_named, is_link=is_link)


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        target = os.readlink(path) if os.path.islink(path) else None
        if target is None:
            raise InputError(f"input {path} disappeared while it was listed") from None
        fix = "git annex get it" if "annex/objects" in target else "mend or remove the link"
        raise InputError(
            f"input {path} is a link to {target}, which does not exist: {fix}"
        ) from None
    except OSError as error:
        raise InputError(f"input {path}: {error.strerror}") from error


def _entries(files: InputCandidates, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder or ".") as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"input {folder or '.'}: the folder cannot be listed: {error.strerror}"
        ) from error
    files.listed.update(_join(folder, entry.name) for entry in listed)
    return listed


def _join(folder: str, name: str) -> str:
    return name if folder in ("", ".") else os.path.join(folder, name)


def _walk(files: InputCandidates, root: str, pattern: Sequence[str], *, is_link: bool) -> None:
    """Add the files below `root` that `pattern` (relative to it; empty for all) selects.

    Folders come before links to folders, so that a file has its real name where it has several,
    and a link to a folder that was visited (its own parent, for example) is not followed again.
    """
    # By the number of the folder, not its name: links give a folder several names.
    visited: set[Hashable] = set()
    folders, linked = deque([(root, is_link)]), deque[tuple[str, bool]]()
    while folders or linked:
        folder, behind_link = folders.popleft() if folders else linked.popleft()
        if _is_gone_work(folder):
            continue
        facts = _stat(folder)
        number: Hashable = (
            (facts.st_dev, facts.st_ino) if facts.st_ino else os.path.realpath(folder)
        )
        if number in visited:
            files.leave_out(f"{folder}/", VISITED)
            continue
        visited.add(number)
        for entry in _entries(files, folder):
            path = _join(folder, entry.name)
            if is_hidden(entry.name) and not _is_asked_for(entry.name, pattern):
                _leave_out_hidden(files, path)
            elif entry.is_dir(follow_symlinks=False):
                folders.append((path, behind_link))
            elif entry.is_symlink() and os.path.isdir(path):
                linked.append((path, True))
            else:
                _add_file(files, path, root, pattern, behind_link or entry.is_symlink())


def _is_gone_work(path: str) -> bool:
    """Whether a listed name belongs to a work folder that another run has removed since.

    The tasks of a run may have their work folders in the folder that they read.
    """
    is_work = path.endswith(".work") or os.path.dirname(path).endswith(".work")
    return is_work and not os.path.lexists(path)


def _is_asked_for(name: str, pattern: Sequence[str]) -> bool:
    return any(is_hidden(part) and fnmatchcase(name, part) for part in pattern)


def _leave_out_hidden(files: InputCandidates, path: str) -> None:
    """Record a hidden folder, or a hidden file of a kind that may hold data; no other files."""
    if os.path.isdir(path):
        files.leave_out_hidden(f"{path}/")
    elif kind_of(path):
        files.leave_out_hidden(path)


def _add_file(
    files: InputCandidates, path: str, root: str, pattern: Sequence[str], is_link: bool
) -> None:
    selected = select(os.path.relpath(path, root or ".").split("/"), pattern)
    if selected is None or _is_gone_work(path):
        return
    facts = _stat(path)
    if not stat.S_ISREG(facts.st_mode):
        files.leave_out(path, NO_FILE)
    elif selected.hidden is not None:
        files.leave_out_hidden(path)
    else:
        files.candidates.append(_candidate(path, facts, is_named=False, is_link=is_link))


def _expand(
    files: InputCandidates, base: str, pattern: list[str], *, is_link: bool
) -> Iterator[tuple[str, bool, list[str]]]:
    """(path, whether a link leads to it, rest of the pattern for the files below it).

    A level at a time up to `**`, so that `data/*.jsonl` does not list everything below `data`.
    """
    part, rest = pattern[0], pattern[1:]
    if not os.path.isdir(base or "."):
        return
    if part == "**" or (part == "" and not rest):
        yield base or ".", is_link, [] if part == "" else pattern
        return
    matches: list[tuple[str, bool]] = []
    if not has_wildcard(part):
        path = _join(base, part)
        matches += [(path, is_link)] if os.path.lexists(path) else []
    else:
        for entry in _entries(files, base):
            path = _join(base, entry.name)
            if fnmatchcase(entry.name, part) and may_stand_for(entry.name, part):
                matches.append((path, is_link or entry.is_symlink()))
            elif fnmatchcase(entry.name, part):
                _leave_out_hidden(files, path)
    for path, through_link in matches:
        if rest:
            yield from _expand(files, path, rest, is_link=through_link)
        else:
            yield path, through_link, []
