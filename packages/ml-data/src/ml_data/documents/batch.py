"""The unit of work: a run of consecutive rows of one file, a few mebibytes of text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where reading goes on: the file's index, the next row in it, the byte offset of that row.

    `offset` is used by plain JSON lines alone; everything else finds its place by the row.
    """

    file: int = 0
    row: int = 0
    offset: int = 0

    def to_dict(self) -> dict[str, int]:
        """For the journal."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The part of the `file`-th input that a task reads: from `start` up to, not including, `stop`.

    `stop_row` bounds parquet, `stop_offset` plain JSON lines; None reads to the end.
    """

    file: int
    start: Position
    stop_row: int | None = None
    stop_offset: int | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows `first_row` .. of one file: Arrow columns (parquet) or whole lines (JSON lines)."""

    source: str
    first_row: int
    num_rows: int
    columns: Any = None
    """A pyarrow.RecordBatch, or None."""
    lines: bytes | None = None
    end: Position
    shard: int = 0
    ends_shard: bool = False

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return len(self.lines) if self.lines is not None else int(self.columns.nbytes)

    def describe(self) -> str:
        """For messages."""
        last = self.first_row + self.num_rows - 1
        return f"shard {self.shard}: {self.source}, rows {self.first_row} to {last}"
