"""The unit of work: consecutive rows of a file, a few mebibytes of text."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where reading goes on: the file's index, the next row in it, the byte offset of that row.

    Plain JSON lines are continued at `offset`, all other files at `row`.
    """

    file: int = 0
    row: int = 0
    offset: int = 0

    def to_dict(self) -> dict[str, int]:
        """For the journal."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The part of the `file`-th input that a task reads, from `start` to before its stop.

    `stop_row` ends a part of parquet, `stop_offset` a part of plain JSON lines. None of them reads
    to the end of the file.
    """

    file: int
    start: Position
    stop_row: int | None = None
    stop_offset: int | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Consecutive rows of a file: Arrow columns of parquet, or whole lines of JSON lines."""

    source: str
    first_row: int
    num_rows: int
    columns: pa.RecordBatch | None = None
    lines: bytes | None = None
    end: Position
    shard: int = 0
    ends_shard: bool = False

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return len(self.lines) if self.lines is not None else int(self.arrow_columns.nbytes)

    @property
    def arrow_columns(self) -> pa.RecordBatch:
        """The columns of a batch of parquet."""
        assert self.columns is not None, "a batch of JSON lines has no columns"
        return self.columns

    def describe(self) -> str:
        """For messages."""
        last = self.first_row + self.num_rows - 1
        return f"shard {self.shard}: {self.source}, rows {self.first_row} to {last}"
