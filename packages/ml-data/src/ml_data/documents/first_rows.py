"""Whether the first rows of a JSON lines file hold the texts that a run wants.

Without this check a wrong key in a file of a terabyte shows after a terabyte of quarantine. A file
that is no JSON lines at all is an error. A file without a usable row among its first rows is a
fault, which the caller judges: a few bad rows in a small file are what a quarantine is for.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ml_data.documents.batch import Batch, Position
from ml_data.documents.content import HEAD_BYTES, UTF8_MARK, pointer_of, recognize
from ml_data.documents.decompress import Readable, decompressed
from ml_data.documents.extract import NULL, WantedTexts, extract
from ml_data.documents.hints import names_of_row, shown_names, way_out
from ml_data.documents.sources import SourceFile, reporting_input
from ml_data.errors import InputError

_BLOCK_BYTES = 1 << 18
# A line longer than a block, such as a book, is read up to this size.
_LONGEST_LINE_BYTES = 1 << 25
_MAX_ROWS = 1000
_CONVERT = "JSON lines have one object a line. Convert it: jq -c . FILE > FILE.jsonl"


@dataclass(frozen=True, kw_only=True)
class FirstRows:
    """The first lines of a file, and whether they are all of it."""

    lines: list[bytes]
    are_all: bool

    def objects(self) -> list[dict[str, Any]]:
        """The rows that are JSON objects."""
        rows = map(_object_of, self.lines)
        return [row for row in rows if row is not None]


@dataclass(frozen=True, kw_only=True)
class FirstRowsFault:
    """Why no first row of a file is usable. `is_whole_file`: the file has no further rows."""

    text: str
    is_whole_file: bool


def check_first_rows(source: SourceFile, wanted: WantedTexts) -> FirstRowsFault | None:
    """Why none of the first rows holds what is wanted; None when some do, or are null.

    Raises InputError for a file that is no JSON lines, or that names a wanted key twice in a row.
    """
    first = read_first_rows(source)
    _refuse_doubled_keys(source, first, wanted)
    batch = Batch(
        source=source.name,
        first_row=0,
        num_rows=len(first.lines),
        lines=b"\n".join(first.lines),
        end=Position(),
    )
    for key in wanted.keys:
        texts = extract(batch, key, wanted.template)
        if texts.rows or not texts.bad:
            continue
        objects = first.objects()
        missing = [name for name in wanted.required if not any(name in row for row in objects)]
        # A key that is there and null is no mistake of the user: later rows may have texts.
        has_nulls = any(bad["reason"] == NULL for bad in texts.bad)
        if has_nulls and not (wanted.template and missing):
            continue
        row, detail = texts.bad[0]["row"], texts.bad[0]["detail"]
        if wanted.template and missing and objects:
            detail = f"no {missing[0]!r}; it has: {shown_names(objects[0])}"
        fix = way_out(names_of_row(objects[0]), wanted.flag) if objects else _mend(first.lines[row])
        rows = f"{'' if first.are_all else 'first '}{len(texts.bad):,} rows"
        text = f"{source.name}: none of its {rows} holds a text. Row {row}: {detail}. {fix}"
        return FirstRowsFault(text=text, is_whole_file=first.are_all)
    return None


def _mend(line: bytes) -> str:
    """What to do about a file with lines such as `line`, which are no objects."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return "JSON lines are UTF-8: iconv -f ENCODING -t UTF-8 FILE > FILE.utf8.jsonl"
    if text.startswith('"'):
        return "JSON lines have one object a line: jq -c '{text: .}' FILE > FILE.objects.jsonl"
    if text.startswith("{") and text.endswith(","):
        return "JSON lines have no comma after an object: sed 's/,$//' FILE > FILE.lines.jsonl"
    return _CONVERT if text.startswith("{") else "JSON lines have one object a line"


def read_first_rows(source: SourceFile) -> FirstRows:
    """The first rows of JSON lines. Raises InputError for a file that holds something else."""
    with reporting_input(lambda: f"{source.name}: cannot be read", is_local=source.is_local):
        with source.open_stream() as stream:
            head = stream.read(HEAD_BYTES if source.compression else _BLOCK_BYTES)
            _check_content(source, head[:HEAD_BYTES])
            if source.compression is None:
                text, is_end = _read_rows(source, stream, head)
        if source.compression is not None:
            with closing(decompressed(source.open_stream(), source.compression)) as unpacked:
                text, is_end = _read_rows(source, unpacked, b"")
            inside = recognize(text[:HEAD_BYTES])
            if inside is not None:
                raise InputError(
                    f"{source.name} holds {inside.what} in {source.compression} data, not JSON "
                    f"lines. {inside.fix or 'Unpack it'}"
                )
    lines = text.split(b"\n")
    if not is_end or not lines[-1]:
        lines.pop()
    _refuse_spread_objects(source, text, lines)
    return FirstRows(lines=lines[:_MAX_ROWS], are_all=is_end and len(lines) <= _MAX_ROWS)


def _read_rows(source: SourceFile, stream: Readable, text: bytes) -> tuple[bytes, bool]:
    """(a block with at least one whole line, whether it is all of the file)."""
    while True:
        _refuse_array(source, text)
        enough = len(text) >= _BLOCK_BYTES and b"\n" in text
        if enough or len(text) >= _LONGEST_LINE_BYTES:
            return text, False
        try:
            block = stream.read(max(len(text), _BLOCK_BYTES))
        except OSError:
            # The run meets this damage, too, and names the line after which it is.
            if not text:
                raise
            return text, False
        if not block:
            return text, True
        text += block


def _check_content(source: SourceFile, head: bytes) -> None:
    pointer = pointer_of(head)
    if pointer:
        raise InputError(f"{source.name} {pointer}")
    content = recognize(head)
    compression = content.compression if content else None
    name = source.name.rsplit("/", 1)[-1]
    if source.compression is not None:
        if compression == source.compression:
            return
        what = content.what if content else "plain text"
        stem = name.rsplit(".", 1)[0]
        new_name = f"{stem}{content.ending}" if content else stem
        fix = content.fix if content and content.fix else f"Rename it to {new_name}"
        raise InputError(f"{source.name} holds {what}, not {source.compression} data. {fix}")
    if content is None:
        return
    if content.is_parquet:
        fix = f"Rename it to {name.rsplit('.', 1)[0]}.parquet"
    else:
        fix = content.fix or f"Rename it to {name}{content.ending}"
    raise InputError(f"{source.name} holds {content.what}, not JSON lines. {fix}")


def _refuse_array(source: SourceFile, text: bytes) -> None:
    if text.removeprefix(UTF8_MARK).lstrip().startswith(b"["):
        raise InputError(
            f"{source.name} holds one JSON array; JSON lines have one object a line. Convert it: "
            "jq -c '.[]' FILE > FILE.jsonl"
        )


def _refuse_spread_objects(source: SourceFile, text: bytes, lines: list[bytes]) -> None:
    """Refuse a pretty-printed file, whose objects go over several lines."""
    first = next((line.strip() for line in lines if line.strip()), b"").removeprefix(UTF8_MARK)
    if not first.startswith(b"{") or _object_of(first) is not None:
        return
    start = text[text.index(b"{") :].decode("utf-8", "replace")
    try:
        _, end = json.JSONDecoder().raw_decode(start)
        is_spread = "\n" in start[:end]
    except (ValueError, RecursionError):
        # The object is larger than the text that was read. It goes on in the next line where its
        # first line ends with an open bracket or a comma.
        is_spread = first.endswith((b"{", b"[", b","))
    if is_spread:
        raise InputError(f"{source.name} holds JSON objects that go over several lines. {_CONVERT}")


def _refuse_doubled_keys(source: SourceFile, first: FirstRows, wanted: WantedTexts) -> None:
    """Refuse rows with a key twice: JSON's readers would keep the last value in silence."""
    marks = {name: json.dumps(name).encode() for name in wanted.columns}
    for row, line in enumerate(first.lines):
        # The text of nearly every row has a key once. Only other rows are parsed a second time.
        for name in [name for name, mark in marks.items() if line.count(mark) > 1]:
            try:
                pairs = json.loads(line, object_pairs_hook=list)
            except (ValueError, RecursionError):
                break
            if [key for key, _ in pairs].count(name) > 1:
                raise InputError(
                    f"{source.name}, row {row} has the key {name!r} twice, and all but the last "
                    "value would be lost: rename one of them"
                )


def _object_of(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.removeprefix(UTF8_MARK))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
