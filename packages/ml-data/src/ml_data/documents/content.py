"""What a file holds by its first bytes, where its name promises something else.

Names are often wrong: a browser unpacks a download and keeps its `.gz`, a Git LFS pointer takes the
place of the data, an editor saves UTF-16. Every such case has a sentence that tells what to do.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD_BYTES = 512
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst"),
    b"BZh": ("bz2", ".bz2"),
    b"\xfd7zXZ\x00": ("xz", ".xz"),
    b"\x04\x22\x4d\x18": ("lz4", ".lz4"),
}
# The last three bytes of the mark of a zstd frame that decoders skip. The first byte is 0x50 to
# 0x5F: its lowest four bits are free.
_SKIPPABLE_ZSTD = bytes.fromhex("2a4d18")
_OTHER = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"ARROW1": "an Arrow (feather) file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite data base",
    b"%PDF": "a PDF",
    b"\x80\x04": "a Python pickle",
}
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """What the first bytes are: `what` in words, `fix` tells what to do (with its full stop).

    `compression` and `ending` are those of compressed data.
    """

    what: str
    fix: str = ""
    compression: str | None = None
    ending: str = ""
    is_parquet: bool = False


def pointer_of(head: bytes) -> str | None:
    """A sentence about a pointer file that takes the place of the data; None for data."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, not the data: fetch it with `git lfs pull`"
    if head.startswith((b"/annex/objects/", b"../.git/annex/objects/")):
        return "is a git-annex pointer, not the data: fetch it with `git annex get`"
    return None


def recognize(head: bytes) -> FileContent | None:
    """What the first `HEAD_BYTES` of a file are; None for what may be plain JSON lines."""
    for magic, (name, ending) in _COMPRESSED.items():
        if head.startswith(magic):
            return FileContent(what=f"{name} data", compression=name, ending=ending)
    if len(head) >= 4 and head[1:4] == _SKIPPABLE_ZSTD and head[0] >> 4 == 5:
        return FileContent(what="zstd data", compression="zstd", ending=".zst")
    if head.startswith((b"PAR1", b"PARE")):
        return FileContent(what="a parquet file", is_parquet=True)
    for magic, what in _OTHER.items():
        if head.startswith(magic):
            return FileContent(what=what, fix="Convert it to parquet or JSON lines.")
    if head[257:262] == b"ustar":
        return FileContent(what="a tar archive", fix="Unpack it.")
    return _text_of_another_kind(head)


def _text_of_another_kind(head: bytes) -> FileContent | None:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return _in_encoding(encoding)
    start = head[:64]
    if len(start) >= 8 and b"\0" in start:
        # JSON begins with ASCII characters, of which UTF-16 makes a byte and a zero each.
        for encoding, rest in (("UTF-16LE", start[1:8:2]), ("UTF-16BE", start[0:8:2])):
            if not any(rest) and start[:8].count(0) == 4:
                return _in_encoding(encoding)
    text = head.removeprefix(UTF8_MARK).lstrip()[:15].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return FileContent(
            what="an HTML or XML page",
            fix="A download that failed leaves its error page under the name of the data: get it "
            "again.",
        )
    return None


def _in_encoding(encoding: str) -> FileContent:
    return FileContent(
        what=f"text in {encoding}",
        fix=f"JSON lines are UTF-8: iconv -f {encoding} -t UTF-8 FILE > FILE.utf8.jsonl",
    )
