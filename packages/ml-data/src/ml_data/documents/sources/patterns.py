"""Globs, with the same meaning on a disk and in a bucket.

`*`, `?` and `[...]` stand for characters of a name, `**` for any number of folders. A wildcard
selects no hidden name, unless the pattern itself begins like one (`_*`). A folder that matches is
read as if the user had named it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ml_data.documents.sources.names import is_hidden

WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class PatternMatch:
    """A file matches a pattern; it is not read where `hidden` is the index of a hidden name."""

    hidden: int | None = None


def has_wildcard(text: str) -> bool:
    """Whether `text` is a pattern."""
    return bool(WILDCARDS & set(text))


def split_pattern(path: str) -> tuple[str, list[str]]:
    """(base without wildcards, names of the pattern below it; the last is '' for `x/*/`)."""
    names = path.split("/")
    fixed = next((at for at, name in enumerate(names) if has_wildcard(name)), len(names))
    return "/".join(names[:fixed]), names[fixed:]


def may_stand_for(name: str, part: str) -> bool:
    """Whether `part`, which matches `name`, selects it: a hidden name needs a hidden part."""
    return not is_hidden(name) or is_hidden(part)


def select(names: Sequence[str], pattern: Sequence[str]) -> PatternMatch | None:
    """Whether the file `names` (relative to the base) is selected; None when it does not match."""
    only_folders = bool(pattern) and pattern[-1] == ""
    parts = pattern[:-1] if only_folders else pattern
    taken = _taken(names, parts, hidden=False)
    if taken is not None and not (only_folders and taken == len(names)):
        return PatternMatch(_first_hidden(names, taken))
    taken = _taken(names, parts, hidden=True)
    if taken is not None and not (only_folders and taken == len(names)):
        return PatternMatch(_first_hidden(names, 0))
    return None


def _first_hidden(names: Sequence[str], start: int) -> int | None:
    return next((at for at in range(start, len(names)) if is_hidden(names[at])), None)


def _taken(names: Sequence[str], pattern: Sequence[str], *, hidden: bool) -> int | None:
    """How many of the first names the pattern takes up; None when it does not match them.

    Fewer than all of them means that it matches a folder. `hidden` lets wildcards match hidden
    names.
    """
    if not pattern:
        return 0
    part, rest = pattern[0], pattern[1:]
    if part == "**":
        for skip in range(len(names)):
            if skip and is_hidden(names[skip - 1]) and not hidden:
                return None
            taken = _taken(names[skip:], rest, hidden=hidden)
            if taken is not None:
                return skip + taken
        return None
    if not names or not fnmatchcase(names[0], part):
        return None
    if not (hidden or may_stand_for(names[0], part)):
        return None
    taken = _taken(names[1:], rest, hidden=hidden)
    return None if taken is None else taken + 1
