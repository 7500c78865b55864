"""Tensors that a file lists, before it is known whether the model needs them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ml_models.weights.arrays import StoredTensor
from ml_models.weights.boxes import Shape

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""safetensors' names of the dtypes that weights have."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class ListedTensor:
    """A tensor that a file lists."""

    path: Path
    shape: Shape
    dtype: str
    """As the file calls it: BF16, I32, F8_E4M3; the class of the storage in a torch file."""
    stored: StoredTensor | None
    """None for numbers of a dtype that weights do not have, or that do not lie row by row."""
