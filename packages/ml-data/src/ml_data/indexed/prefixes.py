"""Prefixes as users give them: with `~` for the home folder, or a folder instead of a prefix."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ml_data.errors import UsageError

_NAMES_IN_A_MESSAGE = 3
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def expanded(prefix: str | Path, flag: str = "prefix") -> str:
    """`prefix` with `~` replaced by the home folder: the shell does not replace it after a `=`.

    Raises UsageError for what names no file of this machine: nothing but white space, or a URI.
    """
    text = str(prefix)
    if not text.strip() or "\0" in text:
        raise UsageError(f"{flag} {text!r} is empty: is a variable of the shell empty?")
    # pathlib makes s3:/x of s3://x, which is a folder `s3:` beside the user's own.
    if _URI.match(text):
        raise UsageError(
            f"{flag} {text!r} is a URI: token files lie on this machine, as training maps them "
            "into memory. Name a path, and copy the files"
        )
    return os.path.expanduser(text)


def output_prefix(prefix: str | Path, flag: str = "--output-prefix") -> str:
    """An expanded prefix for new files; UsageError where it names a folder and no file.

    A prefix beside a folder of the same name is fine: P_text_document.bin lies beside P/.
    """
    given = expanded(prefix, flag) if str(prefix) else ""
    if os.path.basename(given) in ("", ".", ".."):
        what = "is a folder" if given else "is empty"
        example = os.path.join(given, "data")
        raise UsageError(
            f"{flag} {str(prefix)!r} {what}, and the names of files begin with it: add a name, as "
            f"in {flag} {example}"
        )
    return given


def prefixes_in(folder: str | Path) -> str:
    """For messages: the prefixes of the pairs in `folder`."""
    try:
        names = sorted(path.name for path in Path(folder).iterdir())
    except OSError:
        return ""
    prefixes = [name.removesuffix(".idx") for name in names if name.endswith(".idx")]
    shown = ", ".join(os.path.join(folder, name) for name in prefixes[:_NAMES_IN_A_MESSAGE])
    more = len(prefixes) - _NAMES_IN_A_MESSAGE
    return f"{shown} and {more:,} more" if more > 0 else shown
