"""torch_npu's documented kernels in plain torch; whatever the documents do not allow is refused.

Sources: Ascend Extension for PyTorch 7.0, API lists of npu_rms_norm, npu_rotary_mul, npu_swiglu and
npu_grouped_matmul.
"""

from types import ModuleType

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def npu_rms_norm(self: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    assert self.dtype in FLOATS and gamma.dtype in FLOATS
    assert self.shape[-gamma.dim() :] == gamma.shape
    rstd = (self.float().square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return (self.float() * rstd * gamma.float()).to(self.dtype), rstd


def npu_rotary_mul(input: Tensor, r1: Tensor, r2: Tensor) -> Tensor:  # noqa: A002 - as documented
    assert input.dtype in FLOATS and r1.dtype == r2.dtype == input.dtype
    assert input.dim() == r1.dim() == r2.dim() == 4 and r1.shape == r2.shape
    assert r1.shape[-1] == input.shape[-1] and input.shape[-1] % 2 == 0
    first, second = input.chunk(2, dim=-1)
    return input * r1 + torch.cat((-second, first), dim=-1) * r2


def npu_swiglu(self: Tensor, dim: int = -1) -> Tensor:
    assert self.dtype in FLOATS and self.shape[dim] % 2 == 0
    gate, value = self.float().chunk(2, dim=dim)
    return (torch.nn.functional.silu(gate) * value).to(self.dtype)


def npu_grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    group_list: Tensor,
    split_item: int = 0,
    group_type: int = -1,
    group_list_type: int = 0,
) -> list[Tensor]:
    (rows,), (matrices,) = x, weight
    assert rows.dtype in FLOATS and matrices.dtype == rows.dtype
    # One tensor in and out, grouped by rows: x is 2-D and the weight 3-D, with a matrix per group.
    assert split_item in (2, 3) and group_type == 0 and rows.dim() == 2 and matrices.dim() == 3
    assert group_list.dtype == torch.int64 and group_list.shape == matrices.shape[:1]
    counts = group_list if group_list_type == 1 else group_list.diff(prepend=group_list[:1] * 0)
    assert rows.shape[0] == int(counts.sum()) > 0
    parts = rows.split(counts.tolist())
    return [torch.cat([part @ matrix for part, matrix in zip(parts, matrices, strict=True)])]


def module() -> ModuleType:
    """A module torch_npu with these kernels and nothing else."""
    made = ModuleType("torch_npu")
    for kernel in (npu_rms_norm, npu_rotary_mul, npu_swiglu, npu_grouped_matmul):
        setattr(made, kernel.__name__, kernel)
    return made
