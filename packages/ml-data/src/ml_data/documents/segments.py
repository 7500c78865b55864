"""Cut the inputs into consecutive parts of about equal size, a part for each task.

Every task computes the same cuts from file sizes, footers and line ends, so that tasks need not
communicate. A file of compressed JSON lines is not cut.
"""

from __future__ import annotations

from ml_data.documents.batch import Position, Segment
from ml_data.documents.schema import StatedSize
from ml_data.documents.sources import SourceFile

_SEARCH_BYTES = 1 << 16


def segments_of(
    sources: list[SourceFile], sizes: list[StatedSize], task_index: int = 0, num_tasks: int = 1
) -> list[Segment]:
    """What task `task_index` of `num_tasks` reads; all tasks in order read the whole."""
    total = sum(source.num_bytes for source in sources)
    begin = _cut(sources, sizes, total * task_index // num_tasks)
    end = _cut(sources, sizes, total * (task_index + 1) // num_tasks)
    segments = []
    for index, source in enumerate(sources):
        if index < begin.file or index > end.file:
            continue
        start = begin if index == begin.file else Position(file=index)
        segment = Segment(file=index, start=start)
        # The task that this part ends in may have nothing to read of its last file.
        if index == end.file:
            if (end.row, end.offset) == (start.row, start.offset):
                continue
            if source.kind == "parquet":
                segment = Segment(file=index, start=start, stop_row=end.row)
            else:
                segment = Segment(file=index, start=start, stop_offset=end.offset)
        segments.append(segment)
    return segments


def _cut(sources: list[SourceFile], sizes: list[StatedSize], byte: int) -> Position:
    """The first row boundary at or after byte `byte` of all inputs, taken as a single file."""
    for index, (source, size) in enumerate(zip(sources, sizes, strict=True)):
        if byte >= source.num_bytes:
            byte -= source.num_bytes
            continue
        # A compressed file has no place to start reading but its beginning.
        if byte == 0 or source.compression is not None:
            return Position(file=index)
        if source.kind == "parquet":
            return Position(file=index, row=(size.num_rows or 0) * byte // source.num_bytes)
        offset = _next_line(source, byte)
        if offset < source.num_bytes:
            return Position(file=index, offset=offset)
        byte = 0
    return Position(file=len(sources))


def _next_line(source: SourceFile, byte: int) -> int:
    with source.open_file() as stream:
        # A line that begins at `byte` itself has its line feed before it.
        at = byte - 1
        stream.seek(at)
        while block := stream.read(_SEARCH_BYTES):
            line_end: int = block.find(b"\n")
            if line_end >= 0:
                return at + line_end + 1
            at += len(block)
    return at
