"""Stream the rows of a source as small batches, so that one row group feeds every worker.

The memory held is one column chunk of a row group (or one line) and one batch; nothing grows
with the length of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from ml_data.documents.batch import Batch, Position
from ml_data.documents.sources import Source
from ml_data.errors import InputError

BATCH_BYTES = 1 << 20
_MAX_BATCH_ROWS = 16_384
_READ_BYTES = 1 << 20


def read_source(
    source: Source, file: int, start: Position, columns: list[str], batch_bytes: int = BATCH_BYTES
) -> Iterator[Batch]:
    """Batches of `source`, the `file`-th input, from `start` on, in file order."""
    if source.kind == "parquet":
        yield from _read_parquet(source, file, start.row, columns, batch_bytes)
    else:
        yield from _read_lines(source, file, start, batch_bytes)


@contextmanager
def open_parquet(source: Source) -> Iterator[pq.ParquetFile]:
    """The parquet file behind `source`; InputError when it is none."""
    try:
        stream = source.filesystem.open_input_file(source.path)
        opened = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_READ_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.name} is not a readable parquet file: {error}") from error
    with stream, opened:
        yield opened


def _read_parquet(
    source: Source, file: int, start_row: int, columns: list[str], batch_bytes: int
) -> Iterator[Batch]:
    row = 0
    with open_parquet(source) as opened:
        try:
            for group in range(opened.num_row_groups):
                facts = opened.metadata.row_group(group)
                if row + facts.num_rows <= start_row:
                    row += facts.num_rows
                    continue
                size = _rows_per_batch(facts, columns, batch_bytes)
                for batch in opened.iter_batches(
                    batch_size=size, row_groups=[group], columns=columns, use_threads=False
                ):
                    skip = min(max(start_row - row, 0), batch.num_rows)
                    row += skip
                    for part in _split(batch.slice(skip), 4 * batch_bytes):
                        end = Position(file=file, row=row + part.num_rows)
                        yield Batch(
                            source=source.name,
                            first_row=row,
                            num_rows=part.num_rows,
                            columns=part,
                            end=end,
                        )
                        row = end.row
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{source.name}: damaged after row {row}: {error}") from error


def _rows_per_batch(facts: pq.RowGroupMetaData, columns: list[str], batch_bytes: int) -> int:
    heads = {name.split(".")[0] for name in columns}
    total = 0
    for index in range(facts.num_columns):
        column = facts.column(index)
        if column.path_in_schema in columns or column.path_in_schema.split(".")[0] in heads:
            total += column.total_uncompressed_size
    rows = batch_bytes * facts.num_rows // max(total, 1)
    return max(1, min(rows, _MAX_BATCH_ROWS))


def _split(batch: pa.RecordBatch, limit: int) -> Iterator[pa.RecordBatch]:
    """Halve a batch that turned out far larger than the average promised."""
    if batch.num_rows > 1 and batch.nbytes > limit:
        half = batch.num_rows // 2
        yield from _split(batch.slice(0, half), limit)
        yield from _split(batch.slice(half), limit)
    elif batch.num_rows:
        yield batch


def _read_lines(source: Source, file: int, start: Position, batch_bytes: int) -> Iterator[Batch]:
    row, offset = 0, 0
    try:
        if source.compression is None:
            stream = source.filesystem.open_input_file(source.path)
            row, offset = start.row, start.offset
            stream.seek(offset)
        else:
            stream = source.filesystem.open_input_stream(
                source.path, compression=source.compression, buffer_size=_READ_BYTES
            )
        with stream:
            for block in _whole_lines(stream, batch_bytes):
                count = block.count(b"\n") + (not block.endswith(b"\n"))
                first, row, offset = row, row + count, offset + len(block)
                if row <= start.row:
                    continue
                if first < start.row:
                    block = block.split(b"\n", start.row - first)[-1]
                    first, count = start.row, row - start.row
                yield Batch(
                    source=source.name,
                    first_row=first,
                    num_rows=count,
                    lines=block,
                    end=Position(file=file, row=row, offset=offset),
                )
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source.name}: damaged after line {row}: {error}") from error


def _whole_lines(stream: pa.NativeFile, batch_bytes: int) -> Iterator[bytes]:
    """Blocks of about `batch_bytes` that end at the end of a line."""
    parts: list[bytes] = []
    while block := stream.read(batch_bytes):
        cut = block.rfind(b"\n") + 1
        if not cut:
            parts.append(block)
            continue
        yield b"".join((*parts, block[:cut]))
        parts = [block[cut:]] if cut < len(block) else []
    if parts:
        yield b"".join(parts)
