"""Tensors inside files, read block by block.

Each read maps the file afresh and drops the mapping, so that resident memory never grows with what
has been read before (a mapping kept open counts every page it has touched).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ml_models.errors import WeightError
from ml_models.weights.maps import Box, Shape

# torch dtype -> the numpy dtype that holds its bytes
RAW = {
    torch.float32: "<f4",
    torch.bfloat16: "<u2",
    torch.float16: "<f2",
    torch.float64: "<f8",
    torch.int8: "|i1",
    torch.int64: "<i8",
}


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
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def check(self) -> None:
        """Raise WeightError if the file ends before the tensor does."""
        size = self.path.stat().st_size
        if self.offset + self.num_bytes > size:
            raise WeightError(
                f"{self.path}: truncated, it has {size} bytes and a tensor ends at "
                f"{self.offset + self.num_bytes}."
            )

    def read(self, box: Box) -> Tensor:
        """A copy of one block."""
        mapped = np.memmap(
            self.path, dtype=RAW[self.dtype], mode="r", offset=self.offset, shape=self.shape
        )
        block = np.array(mapped[tuple(slice(*axis) for axis in box)], order="C")
        del mapped
        tensor = torch.from_numpy(block)
        return tensor.view(torch.bfloat16) if self.dtype == torch.bfloat16 else tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """A contiguous tensor's bytes, little-endian, without a copy."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
