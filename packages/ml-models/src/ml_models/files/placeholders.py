"""Files that are not what their name says: pointers, half downloads, dead links, web pages.

A download that went wrong leaves them. A reader would call them damaged, as they do not begin like
its format; the message here says what they are and how to fetch the real file.
"""

import re
from pathlib import Path

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def placeholder(path: Path) -> str | None:
    """What is at `path` in place of the file that its name promises; None if it may be that file.

    The text has no full stop. Raises OSError where the file cannot be read.
    """
    if path.is_symlink() and not path.exists():
        return (
            f"a link to {path.resolve()}, which is not there; the download is not whole: fetch it "
            "again"
        )
    if not path.is_file():
        return "missing" if not path.exists() else "not a file"
    with path.open("rb") as file:
        start = file.read(512)  # a pointer of Git LFS has about 130 bytes
    if not start:
        return "empty; the download is not whole: fetch it again"
    if start.startswith(LFS_POINTER):
        size = re.search(rb"\nsize (\d+)", start)
        weights = f" of {int(size[1]):,} bytes" if size else ""
        return (
            f"a pointer of Git LFS, not the file{weights} that it stands for; run git lfs pull in "
            "that folder"
        )
    if start.lstrip()[:9].lower() in (b"<!doctype", b"<html>\n<h") or start[:5].lower() == b"<html":
        return "a web page that was saved under this name; fetch the file again"
    return None
