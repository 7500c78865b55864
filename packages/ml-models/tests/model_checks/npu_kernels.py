"""torch_npu's documented kernels in plain torch; whatever the documents do not allow is refused.

Sources, read at github.com/Ascend/op-plugin: docs/zh/custom_APIs/torch_npu, pages npu_rms_norm,
npu_rotary_mul, npu_swiglu and npu_grouped_matmul (their limits are those of Atlas A2 and A3);
op_plugin/config/op_plugin_functions.yaml for the signatures; for npu_grouped_matmul_add_ also
test/test_custom_ops/test_npu_grouped_matmul_add.py there and docs/zh/ops/npu_groupmatmul_add.md of
MindSpeed.
"""

from types import ModuleType

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32)
NORM_DTYPES = {*((dtype, dtype) for dtype in FLOATS), *((dtype, torch.float32) for dtype in HALVES)}
INNER_LIMIT = 65536


def npu_rms_norm(self: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    assert (self.dtype, gamma.dtype) in NORM_DTYPES
    assert 1 <= gamma.dim() < self.dim() <= 8 and self.shape[-gamma.dim() :] == gamma.shape
    rstd = (self.float().square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return (self.float() * rstd * gamma.float()).to(self.dtype), rstd


def npu_rotary_mul(
    self: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None
) -> Tensor:
    assert self.dtype in FLOATS and r1.dtype == r2.dtype == self.dtype
    # Layout SBND with S11D, of the layouts that are documented.
    length, batch, heads, size = self.shape
    assert r1.shape == r2.shape == (length, 1, 1, size)
    assert size % 2 == 0 and size < 896 and max(batch, heads) < 1000
    assert rotary_mode == "half" and rotate is None
    assert max(r1.abs().max(), r2.abs().max()) <= 1
    first, second = self.chunk(2, dim=-1)
    return self * r1 + torch.cat((-second, first), dim=-1) * r2


def npu_swiglu(self: Tensor, dim: int = -1) -> Tensor:
    assert self.dtype in FLOATS and 1 <= self.dim() <= 8 and self.shape[dim] % 2 == 0
    assert self.is_contiguous() and self.numel(), "neither strided nor empty tensors"
    gate, value = self.float().chunk(2, dim=dim)
    return (torch.nn.functional.silu(gate) * value).to(self.dtype)


def npu_grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    bias: list[Tensor] | None = None,
    group_list: Tensor | None = None,
    split_item: int = 0,
    group_type: int | None = None,
    group_list_type: int = 0,
    act_type: int = 0,
    output_dtype: torch.dtype | None = None,
) -> list[Tensor]:
    (rows,), (matrices,) = x, weight
    assert rows.dtype in FLOATS and matrices.dtype == rows.dtype
    assert bias is None and act_type == 0 and output_dtype in (None, rows.dtype)
    # A tensor in and out, grouped by rows: x is 2-D and the weight 3-D, with a matrix per group.
    assert split_item in (2, 3) and group_type == 0 and rows.dim() == 2 and matrices.dim() == 3
    assert rows.is_contiguous(), "x must not be transposed"
    inner, transposed = matrices.shape[1:], matrices.transpose(1, 2).is_contiguous()
    assert transposed or matrices.is_contiguous()
    assert max(rows.shape[1], inner[0] if transposed else inner[1]) < INNER_LIMIT
    assert group_list is not None and group_list.dtype == torch.int64
    assert group_list.shape == matrices.shape[:1] and len(group_list) <= 1024
    assert group_list_type in (0, 1)
    if group_list_type == 1:
        assert len(group_list) > 1, "sizes of a single group are refused"
        counts = group_list
    else:
        counts = group_list.diff(prepend=group_list[:1] * 0)
    assert (counts >= 0).all() and rows.shape[0] == int(counts.sum()) > 0
    parts = rows.split(counts.tolist())
    return [torch.cat([part @ matrix for part, matrix in zip(parts, matrices, strict=True)])]


def npu_grouped_matmul_add_(
    self: Tensor,
    x: Tensor,
    weight: Tensor,
    group_list: Tensor,
    *,
    transpose_x: bool = True,
    transpose_weight: bool = False,
    group_type: int = 2,
    group_list_type: int | None = 0,
) -> Tensor:
    assert self.dtype == torch.float32 and x.dtype == weight.dtype and x.dtype in HALVES
    assert self.dim() == x.dim() == weight.dim() == 2 and x.shape[0] == weight.shape[0] > 0
    assert all(tensor.is_contiguous() for tensor in (self, x, weight))
    assert transpose_x and not transpose_weight and group_type == 2 and group_list_type == 0
    assert group_list.dtype == torch.int64 and group_list.dim() == 1
    counts = group_list.diff(prepend=group_list[:1] * 0)
    assert (counts >= 0).all() and int(counts.sum()) == x.shape[0]
    assert self.shape == (len(counts) * x.shape[1], weight.shape[1])
    groups = zip(
        self.chunk(len(counts)),
        x.split(counts.tolist()),
        weight.split(counts.tolist()),
        strict=True,
    )
    for target, first, second in groups:
        target.add_(first.float().t() @ second.float())
    return self


KERNELS = (
    npu_rms_norm,
    npu_rotary_mul,
    npu_swiglu,
    npu_grouped_matmul,
    npu_grouped_matmul_add_,
)


def module() -> ModuleType:
    """A module torch_npu with these kernels and nothing else."""
    made = ModuleType("torch_npu")
    for kernel in KERNELS:
        setattr(made, kernel.__name__, kernel)
    return made
