"""Which columns a run needs, and whether the files have them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ml_data.documents.batch import Position, Segment
from ml_data.documents.read import open_parquet, read_source, text_bytes_of
from ml_data.documents.sources import Source
from ml_data.errors import InputError

_FIRST_BYTES = 1 << 16


def column_names(source: Source) -> list[str]:
    """Top-level columns of a parquet file, keys of the first row of a JSON lines file."""
    if source.kind == "jsonl":
        return list(_first_row(source))
    with open_parquet(source) as file:
        names: list[str] = file.schema_arrow.names
    return names


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a file says of itself: rows and bytes of text, None where only reading would tell."""

    num_rows: int | None = None
    text_bytes: int | None = None


def check_all_columns(
    sources: list[Source], columns: list[str], flag: str = "--json-keys"
) -> list[Size]:
    """Check every source before hours are spent on the first; several at a time.

    `flag` is what named the columns, for messages.
    """
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda source: check_columns(source, columns, flag), sources))


def check_columns(source: Source, columns: list[str], flag: str) -> Size:
    """Raise InputError when `source` lacks a text column of that name, or is no JSON lines.

    A file without a byte is zero documents, as Spark writes them for an empty partition.
    """
    if source.num_bytes == 0:
        return Size(num_rows=0, text_bytes=0)
    if source.kind == "jsonl":
        _first_row(source)
        return Size(text_bytes=None if source.compression else source.num_bytes)
    with open_parquet(source) as file:
        schema, metadata = file.schema_arrow, file.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        text_bytes = sum(text_bytes_of(group, columns) for group in groups)
    for column in columns:
        kind = field_type(schema, column)
        if kind is None:
            raise InputError(
                f"{source.name} has no column {column!r}; it has: {', '.join(schema.names)}. "
                f"Name another with {flag}"
            )
        if not is_text(kind):
            raise InputError(f"{source.name}: column {column!r} holds {kind}, not text")
    return Size(num_rows=metadata.num_rows, text_bytes=text_bytes)


def _first_row(source: Source) -> dict[str, Any]:
    """The first row, {} when it is no JSON object (which the run then sets aside)."""
    segment = Segment(file=0, start=Position())
    batch = next(read_source(source, segment, [], _FIRST_BYTES), None)
    text = (batch.lines or b"" if batch else b"").lstrip()
    if text.startswith(b"["):
        raise InputError(
            f"{source.name} holds one JSON array; JSON lines have one object a line. Convert it: "
            "jq -c '.[]' FILE > FILE.jsonl"
        )
    try:
        row = json.loads(text.split(b"\n", 1)[0])
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def field_type(schema: pa.Schema, column: str) -> pa.DataType | None:
    """Type of `column`, where `a.b` is field b of the struct a; None when there is none."""
    if column in schema.names:
        return schema.field(column).type
    head, *rest = column.split(".")
    if head not in schema.names:
        return None
    kind = schema.field(head).type
    for name in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this Arrow type are texts."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    view = getattr(pa.types, "is_string_view", lambda _: False)
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null, view)
    )
