"""What a conversion writes: files of whole tensors, in an order that is known before it starts.

A file is written under NAME.writing and renamed when it is on the disk; what was learned while
writing (checksums, places of chunks) goes to the journal, so that a later run need not read it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.conversion.arrays import bytes_of
from ml_models.conversion.folder import write_durably, write_integrity, write_model_config
from ml_models.conversion.huggingface import header_bytes
from ml_models.conversion.maps import (
    Box,
    Shape,
    WeightMap,
    box_of,
    volume,
)
from ml_models.conversion.megatron import MetadataBuilder

FILE_BYTES = 4 * 2**30  # a file is closed when it reaches this; a tensor is never divided


@dataclass(frozen=True)
class Target:
    """One tensor to be written."""

    name: str
    shape: Shape
    dtype: torch.dtype


@dataclass
class Written:
    """One finished file, as the journal keeps it."""

    file: str
    size: int
    sha256: str
    tensors: dict[str, str]
    """Name -> sha256 of its bytes in row-major order."""
    chunks: list[list[Any]] = field(default_factory=list)
    """[name, box, offset, length], distributed checkpoints only."""
    taken: dict[str, int] = field(default_factory=dict)
    """Source tensor -> elements that were read from it."""
    rounded: dict[str, int] = field(default_factory=dict)
    """Tensor -> elements that the new dtype could not hold exactly."""
    largest_error: dict[str, float] = field(default_factory=dict)
    """Tensor -> the largest absolute difference of such an element."""
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Quantized tensor -> shape, dtype and sha256 of its scales."""

    def add_losses(self, name: str, count: int, largest: float) -> None:
        """Count elements of one more block that are not exact."""
        if count:
            self.rounded[name] = self.rounded.get(name, 0) + count
            self.largest_error[name] = max(largest, self.largest_error.get(name, 0.0))


class Blocks(Protocol):
    """Gives the numbers of a target tensor, block by block."""

    def __call__(self, target: Target, box: Box) -> Tensor: ...


def chunk_boxes(shape: Shape, itemsize: int, chunk_bytes: int) -> Iterator[Box]:
    """A tensor in row-major blocks of at most about `chunk_bytes`, leading axes one at a time."""
    lead, matrix = shape[:-2], shape[-2:]
    row = volume(box_of(matrix[1:])) * itemsize
    rows = max(1, chunk_bytes // max(1, row))
    for index in product(*(range(size) for size in lead)):
        for start in range(0, matrix[0], rows):
            band = (start, min(start + rows, matrix[0]))
            yield (*((at, at + 1) for at in index), band, *box_of(matrix[1:]))


def read_ahead(
    blocks: Blocks, target: Target, boxes: Iterable[Box]
) -> Iterator[tuple[Box, Tensor]]:
    """Each box with its block; the next block is prepared while the caller writes this one."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[Box, Future[Tensor]] | None = None
        for box in boxes:
            following = (box, pool.submit(blocks, target, box))
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()


def group_by_size(targets: list[Target], limit: int) -> list[list[Target]]:
    """Targets in files of about `limit` bytes."""
    files: list[list[Target]] = [[]]
    size = 0
    for target in targets:
        num_bytes = volume(box_of(target.shape)) * target.dtype.itemsize
        if files[-1] and size + num_bytes > limit:
            files.append([])
            size = 0
        files[-1].append(target)
        size += num_bytes
    return files


class HashingFile:
    """Writes and computes the checksum on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        """Append."""
        view = memoryview(data)
        self._file.write(view)
        self._digest.update(view)
        self.size += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        """Part of what torch.save expects of a file."""

    def sha256(self) -> str:
        """Of everything written so far."""
        return self._digest.hexdigest()


class Sink:
    """Common to all formats: the plan of files, and one file."""

    format = ""
    CHUNK_BYTES = 8 * 2**20
    """Of one block in memory; several copies of it are alive at a time. Larger ones cost: the
    system takes each copy's pages back and clears new ones, at 64 MiB 1.6 times the time."""

    def __init__(
        self,
        model: ModelConfig,
        weights: WeightMap,
        dtypes: Mapping[str, torch.dtype],
        *,
        file_bytes: int,
        chunk_bytes: int | None,
    ) -> None:
        self.model, self.weights = model, weights
        self.chunk_bytes = chunk_bytes or self.CHUNK_BYTES
        self.targets = [
            Target(name, shape, dtypes[name]) for name, shape in weights.theirs_shapes.items()
        ]
        self.files = dict(self._name_files(group_by_size(self.targets, file_bytes)))
        self.notes: list[str] = []
        """What a user of the result must know."""
        self.settings: dict[str, Any] = {}
        """What else decides the bytes; a conversion resumes with the same ones only."""

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        raise NotImplementedError

    def _write(
        self, out: HashingFile, targets: list[Target], blocks: Blocks, done: Written
    ) -> None:
        raise NotImplementedError

    def write_file(self, folder: Path, name: str, blocks: Blocks) -> Written:
        """Write one file of the plan; it has its name only once it is whole and on the disk."""
        partial = folder / f"{name}.writing"
        done = Written(name, 0, "", {})
        with partial.open("wb") as file:
            out = HashingFile(file)
            self._write(out, self.files[name], blocks, done)
            file.flush()
            os.fsync(file.fileno())
        done.size, done.sha256 = out.size, out.sha256()
        os.replace(partial, folder / name)
        return done

    def finish(self, folder: Path, written: Mapping[str, Written]) -> None:
        """Write what needs all files: index, metadata, configuration."""
        raise NotImplementedError


class HuggingFaceSink(Sink):
    """config.json and safetensors files that transformers reads."""

    format = "huggingface"

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        if len(groups) == 1:
            yield "model.safetensors", groups[0]
            return
        for number, group in enumerate(groups, start=1):
            yield f"model-{number:05d}-of-{len(groups):05d}.safetensors", group

    def _write(
        self, out: HashingFile, targets: list[Target], blocks: Blocks, done: Written
    ) -> None:
        out.write(header_bytes({target.name: (target.shape, target.dtype) for target in targets}))
        for target in targets:
            digest = hashlib.sha256()
            boxes = chunk_boxes(target.shape, target.dtype.itemsize, self.chunk_bytes)
            for _, block in read_ahead(blocks, target, boxes):
                data = bytes_of(block)
                digest.update(data)
                out.write(data)
            done.tensors[target.name] = digest.hexdigest()

    def finish(self, folder: Path, written: Mapping[str, Written]) -> None:
        """config.json, and the index when there is more than one file."""
        dtypes = {str(target.dtype).removeprefix("torch.") for target in self.targets}
        dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
        values = huggingface_config(self.model, dtype)
        write_durably(folder / "config.json", json.dumps(values, indent=2) + "\n")
        if len(self.files) == 1:
            return
        total = sum(volume(box_of(t.shape)) * t.dtype.itemsize for t in self.targets)
        index = {
            "metadata": {"total_size": total},
            "weight_map": {t.name: name for name, group in self.files.items() for t in group},
        }
        write_durably(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def huggingface_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json of a model; WeightError for what the format cannot say."""
    values: dict[str, Any] = registry.architecture(model).hf_config().to_huggingface(model, dtype)
    return values


class MegatronSink(Sink):
    """The model part of a distributed checkpoint; loads under any layout."""

    format = "megatron"
    CHUNK_BYTES = 16 * 2**20  # each is an entry of .metadata, which every later reader checks

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        for number, group in enumerate(groups):
            yield f"__0_{number}.distcp", group

    def _write(
        self, out: HashingFile, targets: list[Target], blocks: Blocks, done: Written
    ) -> None:
        for target in targets:
            digest = hashlib.sha256()
            boxes = chunk_boxes(target.shape, target.dtype.itemsize, self.chunk_bytes)
            for box, part in read_ahead(blocks, target, boxes):
                block, begin = part.contiguous(), out.size
                digest.update(bytes_of(block))
                torch.save(block, out)  # type: ignore[arg-type]
                done.chunks.append([target.name, box, begin, out.size - begin])
            done.tensors[target.name] = digest.hexdigest()

    def finish(self, folder: Path, written: Mapping[str, Written]) -> None:
        """.metadata, model_config.json; the engine adds integrity.json and COMPLETE."""
        builder = MetadataBuilder()
        # One string object per name, as pickle writes a known object as a reference: a resumed
        # conversion has read its names from the journal, and gives the same bytes.
        names = {target.name: target.name for target in self.targets}
        for target in self.targets:
            builder.add_tensor(target.name, target.shape, target.dtype)
        for name in self.files:
            for tensor, box, offset, length in written[name].chunks:
                place = tuple((int(a), int(b)) for a, b in box)
                builder.add_chunk(names[tensor], place, name, offset, length)
        builder.write(folder)
        write_model_config(folder, self.model)


def seal(sink: Sink, folder: Path, written: Mapping[str, Written]) -> None:
    """integrity.json and COMPLETE for a distributed checkpoint."""
    if sink.format == "megatron":
        write_integrity(folder, {name: done.sha256 for name, done in written.items()})
