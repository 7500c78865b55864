"""Which files of a conversion are finished, so that another process can go on with it.

```
OUTPUT.partial/journal.jsonl   line 1: fingerprint of the plan; then a line per finished file
```
A file that no longer has the checksum of its line is written again.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

from ml_models.errors import WeightError
from ml_models.files.durable import flush_stream, write_durably
from ml_models.files.hashes import sha256_of
from ml_models.files.integrity import JOURNAL
from ml_models.weights.sink import FileRecord, Sink
from ml_models.weights.source import Source


def fingerprint(source: Source, sink: Sink) -> str:
    """A digest of all that decides the bytes: input, model, format, dtypes, sizes and settings."""
    facts = [
        source.format,
        source.identity(),
        source.model.to_dict(),
        sink.format,
        sink.chunk_bytes,
        sink.settings,
        [
            [file, [[target.name, target.shape, str(target.dtype)] for target in targets]]
            for file, targets in sink.files.items()
        ],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Journal:
    """The journal of a folder, which this process alone writes."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Read the journal, or begin it. Raises WeightError for another conversion's folder."""
        self._path = folder / JOURNAL
        self._head: dict[str, object] = {"fingerprint": fingerprint}
        self.records: dict[str, FileRecord] = {}
        """File -> what is known about it, in the order of writing."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        if lines:
            self._read(folder, lines)
            self._clean(folder)
            return
        # Files without a journal are not ours to delete.
        left = [path.name for path in folder.iterdir() if not path.name.startswith(JOURNAL)]
        if left:
            raise WeightError(f"{folder}: {left[0]} without a journal; remove the folder.")
        self._append(self._head)

    def _read(self, folder: Path, lines: list[str]) -> None:
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the line that was being written when the process died
            if number == 0:
                if entry.get("fingerprint") != self._head["fingerprint"]:
                    raise WeightError(
                        f"{folder}: it was begun with another input, model, dtype or setting; "
                        "remove it to start anew."
                    )
                continue
            record = FileRecord(**entry)
            if _is_whole(folder / record.file, record):
                self.records[record.file] = record

    def _clean(self, folder: Path) -> None:
        """Leave nothing in the journal and the folder but whole files."""
        entries = [self._head, *map(dataclasses.asdict, self.records.values())]
        write_durably(self._path, "".join(json.dumps(entry) + "\n" for entry in entries))
        for path in folder.iterdir():
            if path.name != JOURNAL and path.name not in self.records:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def add(self, record: FileRecord) -> None:
        """Note a finished file."""
        self._append(dataclasses.asdict(record))
        self.records[record.file] = record

    def _append(self, entry: dict[str, object]) -> None:
        with self._path.open("ab") as stream:
            stream.write(json.dumps(entry).encode() + b"\n")
            flush_stream(stream)


def _is_whole(path: Path, record: FileRecord) -> bool:
    """Whether a file is as it was written; the size is compared first, as it costs nothing."""
    return (
        path.is_file() and path.stat().st_size == record.size and sha256_of(path) == record.sha256
    )
