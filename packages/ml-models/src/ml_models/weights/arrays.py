"""Tensors inside files, read block by block.

A read maps the file and drops the mapping at once, so that resident memory never grows with what
has been read before (a mapping that stays open counts every page that it has touched).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ml_models.errors import WeightError
from ml_models.weights.boxes import Box, Shape, volume

NUMPY_DTYPES = {
    torch.float32: "<f4",
    torch.bfloat16: "<u2",  # numpy has no bfloat16: its bits are read as integers
    torch.float16: "<f2",
    torch.float64: "<f8",
    torch.int8: "|i1",
    torch.int64: "<i8",
}
"""The numpy dtype that holds the bytes of a torch dtype."""


@dataclass(frozen=True)
class StoredTensor:
    """A row-major tensor at `offset` bytes of a file."""

    path: Path
    offset: int
    shape: Shape
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return volume(self.shape) * self.dtype.itemsize

    def check(self) -> None:
        """Raise WeightError if the file ends before the tensor does."""
        size = self.path.stat().st_size
        if self.offset + self.num_bytes > size:
            raise WeightError(
                f"{self.path}: truncated, it has {size} bytes and a tensor ends at "
                f"{self.offset + self.num_bytes}."
            )

    def read(self, box: Box) -> Tensor:
        """A copy of a block."""
        dtype = NUMPY_DTYPES[self.dtype]
        mapped = np.memmap(self.path, dtype, mode="r", offset=self.offset, shape=self.shape)
        return _copy(mapped, box, self.dtype)


@dataclass(frozen=True)
class InlineTensor:
    """A small row-major tensor whose bytes are in memory."""

    data: bytes
    shape: Shape
    dtype: torch.dtype

    def read(self, box: Box) -> Tensor:
        """A copy of a block."""
        array = np.frombuffer(self.data, NUMPY_DTYPES[self.dtype]).reshape(self.shape)
        return _copy(array, box, self.dtype)


@dataclass(frozen=True)
class LoadedTensor:
    """A tensor that a library has read into memory."""

    tensor: Tensor

    @property
    def shape(self) -> Shape:
        """Of the whole tensor."""
        return tuple(self.tensor.shape)

    def read(self, box: Box) -> Tensor:
        """A copy of a block."""
        return self.tensor[box.slices].clone()


def _copy(array: np.ndarray, box: Box, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(np.array(array[box.slices], order="C"))
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's bytes in row-major order, little-endian, without a copy if it is contiguous."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
