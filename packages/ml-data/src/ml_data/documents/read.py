"""Stream rows of a file as small Arrow batches, so that one row group feeds every worker."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from ml_data.documents.files import kind_of
from ml_data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows `first_row` .. of one file: texts (parquet) or raw lines (JSON lines)."""

    path: str
    first_row: int
    values: pa.Array
    raw_lines: bool


def count_rows(path: Path) -> int | None:
    """Rows of a parquet file from its footer; None where only reading would tell."""
    if kind_of(path) != "parquet":
        return None
    with _open_parquet(path) as file:
        rows: int = file.metadata.num_rows
    return rows


def read_batches(path: Path, column: str, batch_rows: int) -> Iterator[Batch]:
    """Batches of at most `batch_rows` rows of `column`, in file order."""
    if kind_of(path) == "parquet":
        yield from _read_parquet(path, column, batch_rows)
    else:
        yield from _read_lines(path, batch_rows)


def check_column(path: Path, column: str) -> None:
    """Raise InputError when the parquet file `path` has no text column of that name."""
    if kind_of(path) != "parquet":
        return
    with _open_parquet(path) as file:
        schema = file.schema_arrow
    if not _has_field(schema, column):
        raise InputError(
            f"{path} has no column {column!r}; it has: {', '.join(schema.names)}. "
            "Name one with --json-keys"
        )


def _has_field(schema: pa.Schema, column: str) -> bool:
    if column in schema.names:
        return True
    head, *rest = column.split(".")
    if head not in schema.names:
        return False
    kind = schema.field(head).type
    for name in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return True


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file: {error}") from error


def _read_parquet(path: Path, column: str, batch_rows: int) -> Iterator[Batch]:
    row = 0
    with _open_parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=batch_rows, columns=[column]):
                values = batch.column(0)
                for name in column.split(".")[1:] if column not in batch.schema.names else ():
                    values = values.field(name)
                if pa.types.is_dictionary(values.type):
                    values = values.dictionary_decode()
                kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
                if not any(is_kind(values.type) for is_kind in kinds):
                    raise InputError(f"{path}: column {column!r} holds {values.type}, not text")
                yield Batch(path=str(path), first_row=row, values=values, raw_lines=False)
                row += len(values)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged after row {row}: {error}") from error


def _open_lines(path: Path) -> IO[bytes]:
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(path, "rb")
    if name.endswith(".zst"):
        stream: IO[bytes] = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        return stream
    return path.open("rb")


def _read_lines(path: Path, batch_rows: int) -> Iterator[Batch]:
    row, lines = 0, []
    with _open_lines(path) as stream:
        try:
            for line in stream:
                lines.append(line)
                if len(lines) == batch_rows:
                    yield _line_batch(path, row, lines)
                    row, lines = row + len(lines), []
        except (OSError, EOFError, pa.ArrowException) as error:
            raise InputError(f"{path}: damaged after line {row}: {error}") from error
    if lines:
        yield _line_batch(path, row, lines)


def _line_batch(path: Path, row: int, lines: list[bytes]) -> Batch:
    values = pa.array(lines, pa.large_binary())
    return Batch(path=str(path), first_row=row, values=values, raw_lines=True)
