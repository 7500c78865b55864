"""What a conversion writes: files of whole tensors, in an order that is known before it starts.

A file is written under NAME.writing and renamed when it is on the disk; what was learned while
writing (checksums, places of chunks) goes to the journal, so that a later run need not read it.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ml_models.config import ModelConfig
from ml_models.files.durable import replacing
from ml_models.files.hashes import HashingStream
from ml_models.weights.maps import (
    Box,
    Shape,
    WeightMap,
    box_of,
    volume,
)
from ml_models.weights.source import Reader

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


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """What the user of a conversion chooses beside the format."""

    dtype: torch.dtype | None = None
    """Of the result; None keeps the source's."""
    scale_groups: int | None = None
    """Groups of rows with scales of their own, in xAI's format; None for the release's 8."""
    file_bytes: int = FILE_BYTES
    """A file is closed when it has reached this size."""
    chunk_bytes: int | None = None
    """Of one block in memory; None for the format's own choice."""


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
        options: SinkOptions,
    ) -> None:
        self.model, self.weights = model, weights
        self.chunk_bytes = options.chunk_bytes or self.CHUNK_BYTES
        self.targets = [
            Target(name, shape, dtypes[name]) for name, shape in weights.theirs_shapes.items()
        ]
        self.files = dict(self._name_files(group_by_size(self.targets, options.file_bytes)))
        self.notes: list[str] = []
        """What a user of the result must know."""
        self.settings: dict[str, Any] = {}
        """What else decides the bytes; a conversion resumes with the same ones only."""

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        raise NotImplementedError

    def _write(
        self, out: HashingStream, targets: list[Target], blocks: Blocks, done: Written
    ) -> None:
        raise NotImplementedError

    def write_file(self, folder: Path, name: str, blocks: Blocks) -> Written:
        """Write one file of the plan; it has its name only once it is whole and on the disk."""
        done = Written(name, 0, "", {})
        with replacing(folder / name, ".writing") as stream:
            out = HashingStream(stream)
            self._write(out, self.files[name], blocks, done)
        done.size, done.sha256 = out.size, out.sha256()
        return done

    def finish(self, folder: Path, written: Mapping[str, Written]) -> None:
        """Write what needs all files: index, metadata, configuration."""
        raise NotImplementedError

    def seal(self, folder: Path, written: Mapping[str, Written]) -> None:
        """Mark the finished folder as whole, in formats that have such a mark."""


def target_dtypes(
    reader: Reader, weights: WeightMap, dtype: torch.dtype | None
) -> dict[str, torch.dtype]:
    """What each target is to be: `dtype`, or the source's; fp32 where several make up one."""

    def common(names: Iterable[str]) -> torch.dtype:
        kinds = {reader.dtype(name) for name in names}
        return kinds.pop() if len(kinds) == 1 else torch.float32

    return {
        name: dtype or common(piece.ours for piece in weights.theirs[name])
        for name in weights.theirs_shapes
    }
