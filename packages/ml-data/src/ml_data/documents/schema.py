"""Check before a run that every input file has the columns that the run needs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from ml_data.documents.batch import Position, Segment
from ml_data.documents.extract import NULL, WantedTexts, extract
from ml_data.documents.first_rows import FirstRowsFault, check_first_rows, read_first_rows
from ml_data.documents.hints import names_of_schema, shown_names, way_out
from ml_data.documents.read import open_parquet, read_source, text_bytes_of
from ml_data.documents.sources import SourceFile
from ml_data.documents.text_types import is_number, is_string, is_text
from ml_data.errors import InputError

_FIRST_BYTES = 1 << 18


def column_names(source: SourceFile) -> list[str]:
    """Top-level columns of a parquet file, keys of the first object of a JSON lines file."""
    if source.kind == "jsonl":
        objects = read_first_rows(source).objects()
        return list(objects[0]) if objects else []
    with open_parquet(source) as file:
        names: list[str] = file.schema_arrow.names
    return names


@dataclass(frozen=True, kw_only=True)
class StatedSize:
    """Rows and bytes of text that a file states; None where only reading it would tell."""

    num_rows: int | None = None
    text_bytes: int | None = None


def check_sources(
    sources: list[SourceFile], wanted: WantedTexts, *, tolerate: bool, notice: Callable[[str], None]
) -> list[StatedSize]:
    """Check every source, several at a time, before hours are spent on the first.

    Raises InputError when a source is not what its name says, lacks a column, or has no text in its
    first rows. With `tolerate`, a small JSON lines file without a single text gives a notice
    instead, if other files have texts.
    """
    leave_out = ". Or leave it out: name the other files, or a glob" if len(sources) > 1 else ""
    # Threads, as a footer on remote storage costs a few round trips and no processor time.
    with ThreadPoolExecutor(8) as pool:
        try:
            checked = list(pool.map(lambda source: _check(source, wanted), sources))
        except InputError as error:
            raise InputError(f"{str(error).rstrip('.')}{leave_out}") from error
    faults = [fault for _, fault in checked if fault is not None]
    large = [fault for fault in faults if not tolerate or not fault.is_whole_file]
    has_texts = any(
        fault is None and source.num_bytes
        for source, (_, fault) in zip(sources, checked, strict=True)
    )
    if large or (faults and not has_texts):
        worst = (large or faults)[0]
        more = f" ({len(faults):,} files are like this)" if len(faults) > 1 else ""
        raise InputError(f"{worst.text}{leave_out}{more}")
    if faults:
        more = f" ({len(faults):,} small files are like this)" if len(faults) > 1 else ""
        notice(f"{faults[0].text}{more}")
    return [size for size, _ in checked]


def _check(source: SourceFile, wanted: WantedTexts) -> tuple[StatedSize, FirstRowsFault | None]:
    """What a source states, and its fault. A file of 0 bytes, as Spark writes them, has none."""
    if source.num_bytes == 0:
        return StatedSize(num_rows=0, text_bytes=0), None
    if source.kind == "jsonl":
        fault = check_first_rows(source, wanted)
        return StatedSize(text_bytes=None if source.compression else source.num_bytes), fault
    with open_parquet(source) as file:
        schema, metadata = file.schema_arrow, file.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        text_bytes = sum(text_bytes_of(group, wanted.columns) for group in groups)
    for column in wanted.columns:
        check_column(source.name, schema, column, wanted)
    fault = _fault_of_bytes(source, schema, metadata.num_rows, wanted)
    return StatedSize(num_rows=metadata.num_rows, text_bytes=text_bytes), fault


def _fault_of_bytes(
    source: SourceFile, schema: pa.Schema, num_rows: int, wanted: WantedTexts
) -> FirstRowsFault | None:
    """The fault of a column of bytes without a text in its first cells, such as pictures."""
    kinds = [field_type(schema, column) for column in wanted.columns]
    if all(kind is None or is_string(kind) or is_number(kind) for kind in kinds):
        return None
    segment = Segment(file=0, start=Position())
    batch = next(read_source(source, segment, wanted.columns, _FIRST_BYTES), None)
    if batch is None:
        return None
    for key in wanted.keys:
        texts = extract(batch, key, wanted.template)
        if texts.rows or any(row["reason"] == NULL for row in texts.bad):
            continue
        text = (
            f"{source.name}: none of the first {len(texts.bad):,} cells of bytes in {key!r} is a "
            f"text. Row 0: {texts.bad[0]['detail']}. Store text as UTF-8"
        )
        return FirstRowsFault(text=text, is_whole_file=num_rows == batch.num_rows)
    return None


def check_column(name: str, schema: pa.Schema, column: str, wanted: WantedTexts) -> None:
    """Raise InputError when the parquet file `name` has no texts in `column`, or it twice."""
    kind = field_type(schema, column)
    head = column if column in schema.names else column.split(".")[0]
    if schema.names.count(head) > 1:
        raise InputError(
            f"{name} has {schema.names.count(head)} columns {head!r}, and it is not known which is "
            "meant: rename them"
        )
    fix = way_out(names_of_schema(schema), wanted.flag)
    if kind is None:
        raise InputError(
            f"{name} has no column {column!r}; it has: {shown_names(schema.names)}. {fix}"
        )
    if is_text(kind) or (wanted.template and is_number(kind)):
        return
    if is_number(kind):
        fix = f"Numbers are shown by a template: --template '{{{column}}}'"
    raise InputError(f"{name}: column {column!r} holds {kind}, not text. {fix}")


def field_type(schema: pa.Schema, column: str) -> pa.DataType | None:
    """Type of `column`, where `a.b` is field b of the struct a; None when there is none."""
    if column in schema.names:
        return schema.types[schema.names.index(column)]
    head, *rest = column.split(".")
    if head not in schema.names:
        return None
    kind = schema.types[schema.names.index(head)]
    for name in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return kind
