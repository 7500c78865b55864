"""The journal of a run: one line per finished shard, so that a killed run goes on from there.

`P.work/journal.jsonl` starts with what the run is (options, inputs, tokenizer); each further line
says how far the input was read and how far each output was written at the end of a shard. A line
is added only after the data that it speaks of is on the disk; a line cut off by a crash is ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_data.documents.batch import Position
from ml_data.indexed.files import fsync_directory, reporting_output, sync_file

FORMAT_VERSION = 1


@dataclass(kw_only=True)
class Progress:
    """State at the end of a shard. `rows` maps a finished input to its number of rows."""

    shard: int = 0
    position: Position = field(default_factory=Position)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    sealed: bool = False


class Journal:
    """Append-only file of the shards of one run."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._identity = json.loads(json.dumps({"format_version": FORMAT_VERSION, **identity}))
        self._size = 0
        self.num_shards = 0

    def read(self) -> Progress | None:
        """The last shard of an earlier run of the same command; None when there is none."""
        if not self._path.exists():
            return None
        progress: Progress | None = None
        rows: dict[int, int] = {}
        self._size = 0
        for number, line in enumerate(self._path.read_bytes().splitlines(keepends=True)):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None:
                break
            if number == 0:
                if entry != self._identity:
                    return None
            else:
                rows.update({int(file): count for file, count in entry["rows"].items()})
                progress = Progress(
                    shard=entry["shard"],
                    position=Position(**entry["position"]),
                    outputs=entry["outputs"],
                    rows=rows,
                    sealed=entry["sealed"],
                )
            self._size += len(line)
            self.num_shards = number
        return progress

    def start(self) -> None:
        """Begin a new journal in place of any other."""
        with reporting_output(self._path):
            with self._path.open("wb") as file:
                file.write(json.dumps(self._identity).encode() + b"\n")
                self._size, self.num_shards = file.tell(), 0
                sync_file(file)
            fsync_directory(self._path.parent)

    def append(self, progress: Progress, new_rows: dict[int, int]) -> None:
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
                file.seek(self._size)
                file.truncate()
                file.write(json.dumps(entry).encode() + b"\n")
                self._size = file.tell()
                sync_file(file)
        self.num_shards += 1
