"""The journal of a run: a line per finished shard, so that a killed run goes on from there.

The first line of `P.work/journal.jsonl` states what the run is: options, inputs, tokenizer. Every
further line states how far the inputs were read and how far the outputs were written at the end of
a shard. A line is added after the data of its shard is on the disk. A line that a crash cut off is
ignored. `resume` decides whether a run may go on from a journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from ml_data.documents.batch import Position
from ml_data.indexed.files import reporting_output, sync_directory, sync_file
from ml_data.notices import Notice, ignore_notice

FORMAT_VERSION = 2
JournalEntry = dict[str, Any]
"""The JSON values of a line, which another version of ml-data may have written."""


class OutputState(TypedDict):
    """How far an output has got at the end of a shard."""

    written: dict[str, int]
    """Fields of `WriterState`."""
    ledger: dict[str, object]
    quarantine_bytes: int


_ENTRY_FIELDS = {"shard", "position", "outputs", "rows", "sealed"}


@dataclass(kw_only=True)
class ShardProgress:
    """State at the end of a shard. `rows` maps a finished input to its number of rows."""

    shard: int = 0
    position: Position = field(default_factory=Position)
    outputs: list[OutputState] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    sealed: bool = False


def _shard_of(entry: JournalEntry | None) -> ShardProgress | None:
    """The shard of a line, with the inputs that it finished; None for a line that states none."""
    if entry is None or not set(entry) >= _ENTRY_FIELDS:
        return None
    try:
        return ShardProgress(
            shard=entry["shard"],
            position=Position(**entry["position"]),
            outputs=list(entry["outputs"]),
            rows={int(index): count for index, count in entry["rows"].items()},
            sealed=entry["sealed"],
        )
    except (TypeError, ValueError, AttributeError):
        return None


class RunJournal:
    """Append-only file of the finished shards of a run; `identity` is what its command was."""

    def __init__(
        self, path: Path, identity: Mapping[str, object], notice: Notice = ignore_notice
    ) -> None:
        self._path, self._notice = path, notice
        stated = {"format_version": FORMAT_VERSION, **identity}
        # As JSON gives it back, so that it can be compared with what a journal holds.
        self.identity: JournalEntry = json.loads(json.dumps(stated))
        self._size = 0
        self.num_shards = 0

    def read_identity(self) -> JournalEntry | None:
        """The identity in the first line; None when there is no journal, or it is damaged."""
        if not self._path.is_file():
            return None
        with reporting_output(self._path), self._path.open("rb") as file:
            first = self._parse(file.readline())
        return first if first and set(first) >= set(self.identity) else None

    def is_damaged(self) -> bool:
        """Whether there is a journal with a first line that cannot be read.

        A first line without a line end is no damage: the run was killed right at its start.
        """
        if not self._path.is_file() or self.read_identity() is not None:
            return False
        with reporting_output(self._path), self._path.open("rb") as file:
            return file.readline().endswith(b"\n")

    def read(self) -> ShardProgress | None:
        """The state after the last finished shard of an earlier run; None where there is none."""
        progress: ShardProgress | None = None
        with reporting_output(self._path), self._path.open("rb") as file:
            self._size = len(file.readline())
            for line in file:
                finished = _shard_of(self._parse(line))
                # A crash cuts the last line off. Whatever is behind a broken line is worth nothing.
                if finished is None:
                    break
                finished.rows = {**(progress.rows if progress else {}), **finished.rows}
                progress = finished
                self._size += len(line)
                self.num_shards += 1
        return progress

    @staticmethod
    def _parse(line: bytes) -> JournalEntry | None:
        """The entry of a line; None for one that a crash cut off."""
        try:
            entry = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            return None
        return entry if isinstance(entry, dict) else None

    def start(self) -> None:
        """Begin a new journal in place of any other."""
        with reporting_output(self._path):
            with self._path.open("wb") as file:
                file.write(json.dumps(self.identity).encode() + b"\n")
                self._size, self.num_shards = file.tell(), 0
                sync_file(file, self._notice)
            sync_directory(self._path.parent, self._notice)

    def append(self, progress: ShardProgress, new_rows: dict[int, int]) -> None:
        """Record a finished shard."""
        entry = {
            "shard": progress.shard,
            "position": progress.position.to_dict(),
            "outputs": progress.outputs,
            "rows": new_rows,
            "sealed": progress.sealed,
        }
        with reporting_output(self._path):
            with self._path.open("r+b") as file:
                # Cuts off what a crash left behind the last whole entry.
                file.seek(self._size)
                file.truncate()
                file.write(json.dumps(entry).encode() + b"\n")
                self._size = file.tell()
                sync_file(file, self._notice)
        self.num_shards += 1
