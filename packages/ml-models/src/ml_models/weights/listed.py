"""One tensor of a Hugging Face folder, before it is known whether the model needs it."""

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
"""What weights are made of, by safetensors' names."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class ListedTensor:
    """A tensor that a file names."""

    path: Path
    shape: Shape
    dtype: str
    """The file's own word: BF16, I32, F8_E4M3; torch's storage name in a torch file."""
    stored: StoredTensor | None
    """None: its numbers are of a dtype that weights do not have here, or do not lie row by row."""
