"""The conversion: reads blocks from a source, writes the files of a sink, counts every element.

```
OUTPUT.partial/journal.jsonl   what is finished, see journal.py
OUTPUT.partial/NAME            finished files (checksums in the journal)
OUTPUT.partial.lock            held by the process that converts, removed when it ends
OUTPUT/                        renamed once everything is written and the audit has passed;
                               the journal is removed last
```
Memory: a few blocks of Sink.CHUNK_BYTES, whatever the model's size.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ml_models.conversion.journal import Journal, fingerprint
from ml_models.conversion.plan import make_sink
from ml_models.conversion.report import REPORT, Report, audit, make_report
from ml_models.errors import WeightError
from ml_models.files.durable import flush_folder, write_durably
from ml_models.files.integrity import JOURNAL
from ml_models.files.json_files import read_json
from ml_models.weights.blocks import NotCoveredError, assemble
from ml_models.weights.boxes import Box
from ml_models.weights.sink import FileRecord, Sink, SinkOptions, Target
from ml_models.weights.source import Reader, Source

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}

Progress = Callable[[str, int, int], None]
"""(what is being written, bytes done, bytes in all)"""


def convert(
    source: Source,
    to: str,
    output: Path,
    options: SinkOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = lambda *_: None,
) -> Report:
    """Convert `source` into the folder `output`; returns the report that is also written there.

    xAI's quantized weights become fp32, which is exact, unless `options` name another dtype.
    Raises WeightError, and nothing has the name `output`, unless the audit passes.
    """
    reader = Reader(source)
    sink = make_sink(to, reader, options or SinkOptions())
    partial = output.with_name(f"{output.name}.partial")
    with _locked(partial):
        if resume and (output / JOURNAL).is_file():
            # The process died between the two last steps: the rename and the journal's removal.
            (output / JOURNAL).unlink()
            return cast(Report, read_json(output / REPORT))
        if output.exists():
            raise WeightError(f"{output}: it exists already; name another folder or remove it.")
        if partial.exists() and not resume:
            raise WeightError(
                f"{partial}: an unfinished conversion; go on with --resume, or remove it first."
            )
        partial.mkdir(parents=True, exist_ok=True)
        journal = Journal(partial, fingerprint(source, sink))
        _FileWriter(reader, sink, progress).write_all(partial, journal)
        return _publish(source, sink, journal.records, partial, output)


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Keep other processes from the folder `partial` while this one writes there."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(partial.with_name(f"{partial.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise WeightError(f"{partial}: another process is writing there.") from error
    try:
        yield
    finally:
        # Removed while it is held, so that no other process can lock a file that is about to go. A
        # process that comes later makes a new file, and sees what this process has left.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _publish(
    source: Source, sink: Sink, records: dict[str, FileRecord], partial: Path, output: Path
) -> Report:
    """Give the finished folder its name, once the audit has passed."""
    faults = audit(source, sink, records)
    if faults:
        shown = "; ".join(faults[:10])
        raise WeightError(f"the audit failed, {output} was not made: {shown}.")
    report = make_report(source, sink, records)
    # The files that make the folder valid go last, and its name after them.
    sink.finish(partial, records)
    write_durably(partial / REPORT, json.dumps(report, indent=1) + "\n")
    sink.seal(partial, records)
    flush_folder(partial)
    os.rename(partial, output)
    flush_folder(output.parent)
    (output / JOURNAL).unlink()
    return report


@dataclass
class _Losses:
    """Elements of a file that the new dtype cannot hold exactly."""

    entries: list[tuple[str, int, float]] = field(default_factory=list)
    """(tensor, elements of a block, the largest absolute difference)."""

    def cast(self, part: Tensor, target: Target) -> Tensor:
        """`part` in the target's dtype; what is lost is noted."""
        if part.dtype == target.dtype:
            return part
        narrowed = part.to(target.dtype)
        if target.dtype.itemsize < part.dtype.itemsize:
            restored = narrowed.to(part.dtype)
            count = int((restored != part).sum())
            if count:
                largest = float(restored.sub_(part).abs_().max())
                self.entries.append((target.name, count, largest))
        return narrowed


class _FileWriter:
    """Writes the files of a sink from blocks of a source, and reports the progress."""

    def __init__(self, reader: Reader, sink: Sink, progress: Progress) -> None:
        self._reader, self._sink, self._progress = reader, sink, progress
        self._total = sum(target.num_bytes for target in sink.targets)
        # By the sink's targets: a sink may read its blocks in another dtype than it writes.
        self._item_bytes = {target.name: target.dtype.itemsize for target in sink.targets}
        self._file, self._position = "", 0

    def write_all(self, folder: Path, journal: Journal) -> None:
        """Write the files that the journal does not have."""
        finished = 0
        for name, targets in self._sink.files.items():
            self._file, self._position = name, finished
            finished += sum(target.num_bytes for target in targets)
            if name in journal.records:
                self._progress(name, finished, self._total)
            else:
                journal.add(self._write(folder, name))

    def _write(self, folder: Path, name: str) -> FileRecord:
        self._reader.taken.clear()
        losses = _Losses()
        record = self._sink.write_file(
            folder, name, lambda target, box: self._block(target, box, losses)
        )
        record.taken = dict(self._reader.taken)
        for entry in losses.entries:
            record.add_losses(*entry)
        return record

    def _block(self, target: Target, box: Box, losses: _Losses) -> Tensor:
        """A block of a target, put together from blocks of parameters."""
        self._position += box.volume * self._item_bytes[target.name]
        self._progress(self._file, self._position, self._total)
        try:
            return assemble(box, self._parts(target, box, losses))
        except NotCoveredError as error:
            raise WeightError(
                f"{target.name}: only {error.filled} elements of {tuple(box)} are filled."
            ) from error

    def _parts(self, target: Target, box: Box, losses: _Losses) -> Iterator[tuple[Box, Tensor]]:
        """Where each parameter's share of the block lies, and its numbers."""
        for piece in self._sink.weights.by_tensor[target.name]:
            shared = piece.tensor_box.intersection(box)
            if shared is None:
                continue
            part = self._reader.read(piece.parameter, piece.to_parameter(shared))
            if piece.transposed:
                part = part.transpose(-1, -2)
            yield shared, losses.cast(part.reshape(shared.shape), target)
