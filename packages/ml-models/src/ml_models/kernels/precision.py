"""The precision of sums and exponentials: float32 for half types, float64 for float64.

A kernel that widens by `wide` and not by `.float()` can be held to a reference in float64.
"""

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in its wide dtype; itself where it has that already."""
    return tensor.to(wide_dtype(tensor.dtype))
