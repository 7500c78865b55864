"""What a conversion writes: files of whole tensors, in an order that is known before it starts.

A file is written under NAME.writing and renamed when it is on the disk. What was learned while it
was written (checksums, places of chunks) goes to the journal, so that a resumed conversion need not
read the file again.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ml_models.config import ModelConfig
from ml_models.files.durable import replacing
from ml_models.files.hashes import HashingStream
from ml_models.weights.blocks import read_ahead
from ml_models.weights.boxes import Box, Shape, chunk_boxes, volume
from ml_models.weights.maps import WeightMap
from ml_models.weights.source import Reader

FILE_BYTES = 4 * 2**30
"""A file is closed when it has reached this size; a tensor is never divided among files."""


@dataclass(frozen=True)
class Target:
    """A tensor to be written."""

    name: str
    shape: Shape
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of its numbers."""
        return volume(self.shape) * self.dtype.itemsize


Blocks = Callable[[Target, Box], Tensor]
"""Gives the numbers of a target tensor, block by block, in its dtype."""


@dataclass
class FileRecord:
    """A finished file, as the journal keeps it."""

    file: str
    size: int
    sha256: str
    tensors: dict[str, str]
    """Name -> sha256 of its bytes in row-major order."""
    chunks: list[tuple[str, Box, int, int]] = field(default_factory=list)
    """(tensor, box, offset, length) of distributed checkpoints; the journal's JSON has lists."""
    taken: dict[str, int] = field(default_factory=dict)
    """Source tensor -> elements that were read from it."""
    rounded: dict[str, int] = field(default_factory=dict)
    """Tensor -> elements that the new dtype could not hold exactly."""
    largest_error: dict[str, float] = field(default_factory=dict)
    """Tensor -> the largest absolute difference of such an element."""
    scales: dict[str, dict[str, object]] = field(default_factory=dict)
    """Quantized tensor -> shape, dtype and sha256 of its scales."""

    def add_losses(self, name: str, count: int, largest: float) -> None:
        """Count the elements of another block that are not exact."""
        if count:
            self.rounded[name] = self.rounded.get(name, 0) + count
            self.largest_error[name] = max(largest, self.largest_error.get(name, 0.0))


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """What the user of a conversion chooses beside the format."""

    dtype: torch.dtype | None = None
    """Of the result; None keeps the source's."""
    scale_groups: int | None = None
    """Groups of rows with scales of their own, in xAI's format; None for the release's 8."""
    presharded_ranks: int | None = None
    """Ranks that share the experts, in the form of Grok-2's release; None for its 8."""
    file_bytes: int = FILE_BYTES
    """A file is closed when it has reached this size."""
    chunk_bytes: int | None = None
    """Of a block in memory; None for the format's own choice."""


class Sink(ABC):
    """A format that weights are written in: the plan of its files, and how a file is written."""

    format = ""
    CHUNK_BYTES = 8 * 2**20
    """Of a block in memory; several copies of it are alive at a time. Larger blocks are slower, as
    the system takes the pages of a large copy back and clears new ones: at 64 MiB 1.6 times."""

    def __init__(
        self,
        model: ModelConfig,
        weights: WeightMap,
        dtypes: Mapping[str, torch.dtype],
        options: SinkOptions,
    ) -> None:
        """dtypes: of every tensor of `weights`."""
        self.model, self.weights = model, weights
        self.chunk_bytes = options.chunk_bytes or self.CHUNK_BYTES
        self.targets = [
            Target(name, shape, dtypes[name]) for name, shape in weights.tensor_shapes.items()
        ]
        self.files = dict(self._name_files(group_by_size(self.targets, options.file_bytes)))
        self.notes: list[str] = []
        """What a user of the result must know."""
        self.settings: dict[str, object] = {}
        """What else decides the bytes; a conversion resumes with the same settings only."""

    @abstractmethod
    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        """The files in the order of writing, each with its tensors."""

    @abstractmethod
    def _write(
        self, stream: HashingStream, targets: list[Target], blocks: Blocks, record: FileRecord
    ) -> None:
        """Write the tensors of a file, and note their checksums in `record`."""

    @abstractmethod
    def finish(self, folder: Path, records: Mapping[str, FileRecord]) -> None:
        """Write what needs all files: index, metadata, configuration."""

    def seal(self, folder: Path, records: Mapping[str, FileRecord]) -> None:
        """Mark the finished folder as whole; nothing in a format without such a mark."""
        del folder, records

    def write_file(self, folder: Path, name: str, blocks: Blocks) -> FileRecord:
        """Write a file of the plan; it has its name only once it is whole and on the disk."""
        record = FileRecord(name, 0, "", {})
        with replacing(folder / name, ".writing") as raw:
            stream = HashingStream(raw)
            self._write(stream, self.files[name], blocks, record)
        record.size, record.sha256 = stream.size, stream.sha256()
        return record

    def _chunks(self, target: Target, blocks: Blocks) -> Iterator[tuple[Box, Tensor]]:
        """A tensor in row-major order, in blocks of about `chunk_bytes`."""
        boxes = chunk_boxes(target.shape, target.dtype.itemsize, self.chunk_bytes)
        return read_ahead(partial(blocks, target), boxes)


def group_by_size(targets: list[Target], limit: int) -> list[list[Target]]:
    """Targets in files of about `limit` bytes."""
    files: list[list[Target]] = [[]]
    size = 0
    for target in targets:
        # A tensor larger than the limit has a file of its own.
        if files[-1] and size + target.num_bytes > limit:
            files.append([])
            size = 0
        files[-1].append(target)
        size += target.num_bytes
    return files


def target_dtypes(
    reader: Reader, weights: WeightMap, dtype: torch.dtype | None
) -> dict[str, torch.dtype]:
    """What each target is to be: `dtype`, or the source's; fp32 where several make it up."""
    if dtype is not None:
        return dict.fromkeys(weights.tensor_shapes, dtype)
    dtypes = {}
    for name, pieces in weights.by_tensor.items():
        sources = {reader.dtype(piece.parameter) for piece in pieces}
        dtypes[name] = sources.pop() if len(sources) == 1 else torch.float32
    return dtypes
