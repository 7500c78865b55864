"""The conversion: read blocks from a source, write files of a sink, account for every element.

```
OUTPUT.partial/journal.jsonl   line 1: fingerprint of the plan; then one line per finished file
OUTPUT.partial/NAME            finished files (checksums in the journal)
OUTPUT/                        renamed once everything is written and the audit has passed;
                               the journal is removed last
```
Memory: a few blocks of Sink.CHUNK_BYTES, whatever the model's size.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml_models.conversion.plan import make_sink
from ml_models.errors import WeightError
from ml_models.files.durable import flush_folder, flush_stream, write_durably
from ml_models.files.hashes import sha256_of
from ml_models.files.integrity import JOURNAL
from ml_models.files.json_files import read_json
from ml_models.weights.maps import Box, box_of, intersection, shape_of, to_ours, volume
from ml_models.weights.sink import Sink, SinkOptions, Target, Written
from ml_models.weights.source import Reader, Source

REPORT = "conversion_report.json"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}

Progress = Callable[[str, int, int], None]
"""(what is being written, bytes done, bytes in all)"""
Loss = tuple[str, int, float]
"""(target, elements of one block that are not exact, the largest absolute difference)"""


def convert(
    source: Source,
    to: str,
    output: Path,
    options: SinkOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Convert `source` into the folder `output`; returns the report that is also written there.

    xAI's quantized weights become fp32, which is exact, unless `options` name another dtype.
    Raises WeightError, and nothing has the name `output`, unless the audit passes.
    """
    reader = Reader(source)
    sink = make_sink(to, reader, options or SinkOptions())
    if resume and (output / JOURNAL).is_file():  # the process died after the folder was renamed
        (output / JOURNAL).unlink()
        finished: dict[str, Any] = read_json(output / REPORT)
        return finished
    if output.exists():
        raise WeightError(f"{output}: it exists already; name another folder or remove it.")
    with _workplace(output, resume) as folder:
        journal = _Journal(folder, _fingerprint(source, sink))
        _write_files(reader, sink, folder, journal, progress)
        faults = audit(source, sink, journal.written)
        if faults:
            shown = "; ".join(faults[:10])
            raise WeightError(f"the audit failed, {output} was not made: {shown}.")
        report = make_report(source, sink, journal.written)
        sink.finish(folder, journal.written)
        write_durably(folder / REPORT, json.dumps(report, indent=1) + "\n")
        sink.seal(folder, journal.written)
        flush_folder(folder)
        os.rename(folder, output)
        flush_folder(output.parent)
        (output / JOURNAL).unlink()
    return report


@contextmanager
def _workplace(output: Path, resume: bool) -> Iterator[Path]:
    """OUTPUT.partial, held by this process alone; kept when the conversion stops halfway."""
    folder = output.with_name(f"{output.name}.partial")
    if folder.exists() and not resume:
        raise WeightError(
            f"{folder}: an unfinished conversion; go on with --resume, or remove it first."
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise WeightError(f"{folder}: another process is writing there.") from error
    try:
        yield folder
    finally:
        os.close(lock)


def _fingerprint(source: Source, sink: Sink) -> str:
    facts = [
        source.format,
        source.identity(),
        source.model.to_dict(),
        sink.format,
        sink.chunk_bytes,
        sink.settings,
        [[file, [[t.name, t.shape, str(t.dtype)] for t in ts]] for file, ts in sink.files.items()],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class _Journal:
    """Which files are finished; those that no longer have their checksum are written again."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._path = folder / JOURNAL
        self.written: dict[str, Written] = {}
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        if not lines:
            left = [path.name for path in folder.iterdir() if not path.name.startswith(JOURNAL)]
            if left:
                raise WeightError(f"{folder}: {left[0]} without a journal; remove the folder.")
            self._append({"fingerprint": fingerprint})
            return
        self._read(folder, lines, fingerprint)

    def _read(self, folder: Path, lines: list[str], fingerprint: str) -> None:
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the line that was being written when the process died
            if number == 0:
                if entry.get("fingerprint") != fingerprint:
                    raise WeightError(
                        f"{folder}: it was begun with another input, model, dtype or setting; "
                        "remove it to start anew."
                    )
                continue
            done = Written(**entry)
            path = folder / done.file
            if path.is_file() and path.stat().st_size == done.size and _same(path, done):
                self.written[done.file] = done
        kept = [json.dumps({"fingerprint": fingerprint})]
        kept += [json.dumps(dataclasses.asdict(done)) for done in self.written.values()]
        write_durably(self._path, "\n".join(kept) + "\n")
        for path in folder.iterdir():
            if path.name != JOURNAL and path.name not in self.written:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def add(self, done: Written) -> None:
        """Record a finished file."""
        self._append(dataclasses.asdict(done))
        self.written[done.file] = done

    def _append(self, entry: dict[str, Any]) -> None:
        with self._path.open("ab") as stream:
            stream.write(json.dumps(entry).encode() + b"\n")
            flush_stream(stream)


def _same(path: Path, done: Written) -> bool:
    return sha256_of(path) == done.sha256


def _write_files(
    reader: Reader, sink: Sink, folder: Path, journal: _Journal, progress: Progress
) -> None:
    total = sum(_num_bytes(target) for target in sink.targets)
    finished = 0
    for name, targets in sink.files.items():
        if name in journal.written:
            finished += sum(map(_num_bytes, targets))
            progress(name, finished, total)
            continue
        reader.taken.clear()
        losses: list[Loss] = []
        item_bytes = {target.name: target.dtype.itemsize for target in targets}
        position = finished

        def block(
            target: Target,
            box: Box,
            name: str = name,
            losses: list[Loss] = losses,
            item_bytes: dict[str, int] = item_bytes,
        ) -> Tensor:
            nonlocal position
            position += volume(box) * item_bytes[target.name]
            progress(name, position, total)
            return _block(reader, sink, target, box, losses)

        done = sink.write_file(folder, name, block)
        done.taken = dict(reader.taken)
        for loss in losses:
            done.add_losses(*loss)
        journal.add(done)
        finished += sum(map(_num_bytes, targets))


def _num_bytes(target: Target) -> int:
    return volume(box_of(target.shape)) * target.dtype.itemsize


def _block(reader: Reader, sink: Sink, target: Target, box: Box, losses: list[Loss]) -> Tensor:
    """One block of a target, put together from blocks of ours."""
    whole: Tensor | None = None
    filled = 0
    for piece in sink.weights.theirs[target.name]:
        shared = intersection(piece.theirs_box, box)
        if shared is None:
            continue
        part = reader.read(piece.ours, to_ours(piece, shared))
        if piece.transposed:
            part = part.transpose(-1, -2)
        part = _cast(part.reshape(shape_of(shared)), target, losses)
        filled += part.numel()
        if shared == box:
            return part
        if whole is None:
            whole = torch.empty(shape_of(box), dtype=target.dtype)
        at = tuple(slice(a - base, b - base) for (a, b), (base, _) in zip(shared, box, strict=True))
        whole[at] = part
    if whole is None or filled != whole.numel():
        raise WeightError(f"{target.name}: only {filled} elements of {box} are filled.")
    return whole


def _cast(part: Tensor, target: Target, losses: list[Loss]) -> Tensor:
    if part.dtype == target.dtype:
        return part
    cast = part.to(target.dtype)
    if target.dtype.itemsize < part.dtype.itemsize:
        again = cast.to(part.dtype)
        lost = int((again != part).sum())
        if lost:
            losses.append((target.name, lost, float(again.sub_(part).abs_().max())))
    return cast


def audit(source: Source, sink: Sink, written: dict[str, Written]) -> list[str]:
    """Every source tensor read in full exactly once, every target in exactly one file."""
    taken: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    for done in written.values():
        taken.update(done.taken)
        filled.update(done.tensors.keys())
    faults = []
    for name, info in source.tensors.items():
        total = volume(box_of(info.shape))
        if taken[name] != total:
            faults.append(f"source {name}: {taken[name]} of {total} elements used")
    for target in sink.targets:
        if filled[target.name] != 1:
            faults.append(f"target {target.name}: filled {filled[target.name]} times")
    names = set(source.tensors) | {target.name for target in sink.targets}
    faults += [f"{name}: unknown" for name in {*taken, *filled} - names]
    return faults


def make_report(source: Source, sink: Sink, written: dict[str, Written]) -> dict[str, Any]:
    """What went where: names, shapes, dtypes, checksums."""
    where = {name: file for file, done in written.items() for name in done.tensors}
    origins = {
        name: sorted(
            {
                origin.theirs
                for piece in pieces
                for origin in source.weights.ours[piece.ours]
                if intersection(origin.ours_box, piece.ours_box)
            }
        )
        for name, pieces in sink.weights.theirs.items()
    }
    return {
        "version": 1,
        "from": source.format,
        "to": sink.format,
        "model": source.model.to_dict(),
        "notes": [*source.notes, *sink.notes],
        "num_source_tensors": len(source.tensors),
        "num_target_tensors": len(sink.targets),
        "num_parameters": sum(volume(box_of(shape)) for shape in sink.weights.ours_shapes.values()),
        "files": {
            done.file: {"size": done.size, "sha256": done.sha256} for done in written.values()
        },
        "sources": {
            name: {"shape": list(info.shape), "dtype": _name(info.dtype), "used": "once"}
            for name, info in source.tensors.items()
        },
        "targets": {
            target.name: {
                **_target_entry(target, written[where[target.name]]),
                "from": origins[target.name],
            }
            for target in sink.targets
        },
    }


def _target_entry(target: Target, done: Written) -> dict[str, Any]:
    scales = {"scales": done.scales[target.name]} if target.name in done.scales else {}
    return {
        "shape": list(target.shape),
        "dtype": _name(target.dtype),
        "sha256": done.tensors[target.name],
        **scales,
        "rounded_elements": done.rounded.get(target.name, 0),
        "largest_error": done.largest_error.get(target.name, 0.0),
        "file": done.file,
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
