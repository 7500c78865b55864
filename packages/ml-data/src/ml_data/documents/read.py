"""Stream the rows of a source as small batches, so that a single row group feeds every worker.

Memory holds a batch, and a column chunk of a row group or a line. Nothing grows with the length of
a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from ml_data.documents.batch import Batch, Position, Segment
from ml_data.documents.content import HEAD_BYTES, pointer_of, recognize
from ml_data.documents.decompress import Readable, decompressed
from ml_data.documents.sources import SourceFile, reporting_input
from ml_data.errors import InputError

# Bounds the lists and offsets of a batch of tiny rows, whose bytes alone would allow millions.
_MAX_BATCH_ROWS = 16_384
_READ_BYTES = 1 << 20


def read_source(
    source: SourceFile, segment: Segment, columns: list[str], batch_bytes: int
) -> Iterator[Batch]:
    """Batches of the segment of `source`, in file order; none of a file of 0 bytes."""
    if source.num_bytes == 0:
        return
    if source.kind == "parquet":
        yield from _read_parquet(source, segment, columns, batch_bytes)
    else:
        yield from _read_lines(source, segment, batch_bytes)


@contextmanager
def open_parquet(source: SourceFile) -> Iterator[pq.ParquetFile]:
    """The parquet file behind `source`; InputError when it is none."""
    with reporting_input(
        lambda: f"{source.name} is not a readable parquet file", is_local=source.is_local
    ):
        stream = source.open_file()
        try:
            opened = pq.ParquetFile(
                stream,
                pre_buffer=False,
                buffer_size=_READ_BYTES,
                page_checksum_verification=True,
            )
        except (OSError, pa.ArrowException):
            _name_content(source, stream)
            raise
    with stream, opened:
        yield opened


def _name_content(source: SourceFile, stream: pa.NativeFile) -> None:
    """Raise InputError with what a file holds that has the name of parquet and is none."""
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    pointer = pointer_of(head)
    if pointer:
        raise InputError(f"{source.name} {pointer}")
    content = recognize(head)
    if content is not None and not content.is_parquet:
        raise InputError(
            f"{source.name} is not a readable parquet file: it holds {content.what}. "
            f"{content.fix or 'Unpack it'}"
        )
    if head.lstrip()[:1] in (b"{", b"["):
        raise InputError(
            f"{source.name} is not a readable parquet file: it holds JSON. Rename it to .jsonl"
        )


def _read_parquet(
    source: SourceFile, segment: Segment, columns: list[str], batch_bytes: int
) -> Iterator[Batch]:
    row, start_row, stop_row = 0, segment.start.row, segment.stop_row
    with (
        open_parquet(source) as opened,
        reporting_input(
            lambda: f"{source.name}: cannot be read after row {row}", is_local=source.is_local
        ),
    ):
        for group in range(opened.num_row_groups):
            facts = opened.metadata.row_group(group)
            if row + facts.num_rows <= start_row:
                row += facts.num_rows
                continue
            size, group_end = _rows_per_batch(facts, columns, batch_bytes), row + facts.num_rows
            for batch in opened.iter_batches(
                batch_size=size, row_groups=[group], columns=columns, use_threads=False
            ):
                # A run that goes on starts in the middle of a row group: rows before are dropped.
                skip = min(max(start_row - row, 0), batch.num_rows)
                row += skip
                kept = batch.slice(skip, None if stop_row is None else max(stop_row - row, 0))
                for part in _split(kept, 4 * batch_bytes):
                    end = Position(file=segment.file, row=row + part.num_rows)
                    yield Batch(
                        source=source.name,
                        first_row=row,
                        num_rows=part.num_rows,
                        columns=part,
                        end=end,
                    )
                    row = end.row
                if stop_row is not None and row >= stop_row:
                    return
            # Arrow ends without an error where pages of a group are missing.
            if row != group_end:
                raise InputError(
                    f"{source.name}: row group {group} ends after row {row}, where the footer "
                    f"promises {group_end}: the file is damaged"
                )


def text_bytes_of(group: pq.RowGroupMetaData, columns: list[str]) -> int:
    """Uncompressed bytes of these columns in a row group; a nested column with all its fields."""
    heads = {name.split(".")[0] for name in columns}
    chunks = (group.column(index) for index in range(group.num_columns))
    return sum(
        int(chunk.total_uncompressed_size)
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] in heads
    )


def _rows_per_batch(facts: pq.RowGroupMetaData, columns: list[str], batch_bytes: int) -> int:
    """Rows of a group that have about `batch_bytes` of text, by the average of the group."""
    rows = batch_bytes * facts.num_rows // max(text_bytes_of(facts, columns), 1)
    return max(1, min(rows, _MAX_BATCH_ROWS))


def _split(batch: pa.RecordBatch, limit: int) -> Iterator[pa.RecordBatch]:
    """The batch, halved until a part has `limit` bytes: rows may be far larger than average."""
    if batch.num_rows > 1 and batch.nbytes > limit:
        half = batch.num_rows // 2
        yield from _split(batch.slice(0, half), limit)
        yield from _split(batch.slice(half), limit)
    elif batch.num_rows:
        yield batch


def _read_lines(source: SourceFile, segment: Segment, batch_bytes: int) -> Iterator[Batch]:
    start, row, offset = segment.start, 0, 0
    with reporting_input(
        lambda: f"{source.name}: cannot be read after line {row}", is_local=source.is_local
    ):
        if source.compression is None:
            stream = source.open_file()
            row, offset = start.row, start.offset
            stream.seek(offset)
        else:
            stream = decompressed(source.open_stream(), source.compression)
        with closing(stream):
            stop = segment.stop_offset
            left = None if stop is None else stop - start.offset
            for block in _whole_lines(stream, batch_bytes, left):
                count = block.count(b"\n") + (not block.endswith(b"\n"))
                first, row, offset = row, row + count, offset + len(block)
                # Compressed lines cannot be read from the middle: the rows before are dropped.
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
                    end=Position(file=segment.file, row=row, offset=offset),
                )


def _whole_lines(stream: Readable, batch_bytes: int, left: int | None) -> Iterator[bytes]:
    """Blocks of about `batch_bytes` that end with a line, from the next `left` bytes or from all.

    The last of the `left` bytes must end a line, or the file.
    """
    parts: list[bytes] = []
    size = batch_bytes
    while True:
        if left is not None:
            size = min(batch_bytes, left)
        if size <= 0 or not (block := stream.read(size)):
            break
        left = None if left is None else left - len(block)
        # A line longer than a block is collected in parts until its end is read.
        cut = block.rfind(b"\n") + 1
        if not cut:
            parts.append(block)
            continue
        yield b"".join((*parts, block[:cut]))
        parts = [block[cut:]] if cut < len(block) else []
    if parts:
        yield b"".join(parts)
