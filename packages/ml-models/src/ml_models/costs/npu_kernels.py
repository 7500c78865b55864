"""torch_npu's kernels on tensors without values: what each returns, keeps and reports.

Shapes are those of Ascend's reference of torch_npu, and what a kernel keeps for the backward pass
is what torch_npu's derivatives name. No NPU was available: none of it was measured.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ml_models.costs.fused_attention import PRODUCTS_BACKWARD
from ml_models.costs.operations import Shape, size_bytes
from ml_models.costs.packages import importable
from ml_models.costs.stand_in_kernel import Launches, launch
from ml_models.kernels.weight_gradient import NPU_ADD

NUMBERS_PER_ROW = 8
"""npu_fusion_attention gives a row's largest score and its sum 8 times each, for alignment."""


@contextlib.contextmanager
def npu_kernel_stand_ins(launches: Launches) -> Iterator[None]:
    """Inside, `import torch_npu` finds a module with the kernels that the forms call."""

    def fusion_attention(
        query: Tensor, key: Tensor, value: Tensor, head_num: int, _layout: str, **_: object
    ) -> tuple[Tensor, ...]:
        return (launch(_FusionAttention(head_num, launches), query, key, value),)

    def rms_norm(x: Tensor, weight: Tensor, **_: object) -> tuple[Tensor, ...]:
        return (launch(_Norm(launches), x, weight),)

    def swiglu(x: Tensor, **_: object) -> Tensor:
        return launch(_GatedSilu(launches), x)

    def rotary_mul(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return launch(_Rotation(launches), x, cos, sin)

    def grouped_matmul(
        rows: Sequence[Tensor], matrices: Sequence[Tensor], **_: object
    ) -> tuple[Tensor, ...]:
        x, weights = rows[0], matrices[0]
        result = x.new_empty(x.shape[0], weights.shape[-1])
        moved = sum(map(size_bytes, (x, weights, result)))
        experts, inner, columns = weights.shape
        # The experts' rows differ. They count as equal, which leaves FLOPs as they are.
        shape = Shape(experts, x.shape[0] // experts, columns, inner, x.dtype)
        launches.record(
            "npu_grouped_matmul", "product", x.dtype, moved, flops=shape.flops, shape=shape
        )
        return (result,)

    def grouped_matmul_add(
        target: Tensor, first: Tensor, second: Tensor, _ends: Tensor, **_: object
    ) -> None:
        (rows, height), width = first.shape, second.shape[1]
        groups = target.shape[0] // height
        moved = size_bytes(first) + size_bytes(second) + 2 * size_bytes(target)
        shape = Shape(groups, height, width, rows // groups, first.dtype)
        flops = 2 * rows * height * width
        launches.record(NPU_ADD, "product", first.dtype, moved, flops=flops, shape=shape)

    kernels = {
        "npu_fusion_attention": fusion_attention,
        "npu_rms_norm": rms_norm,
        "npu_swiglu": swiglu,
        "npu_rotary_mul": rotary_mul,
        "npu_grouped_matmul": grouped_matmul,
        NPU_ADD: grouped_matmul_add,
    }
    module = ModuleType("torch_npu")
    for name, function in kernels.items():
        setattr(module, name, function)
    with importable(module):
        yield


@dataclass(frozen=True)
class _FusionAttention:
    """Over query [S, B, N*D] and key and value [S, B, G*D]; FLOPs are those of the causal half."""

    heads: int
    launches: Launches

    def forward(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        query = inputs[0]
        length, batch, _ = query.shape
        out = torch.empty_like(query)
        shape = (batch, self.heads, length, NUMBERS_PER_ROW)
        largest, sums = (query.new_empty(shape, dtype=torch.float32) for _ in range(2))
        kept = (*inputs, out, largest, sums)
        self._report("npu_fusion_attention", self._flops(query), *kept)
        return out, kept

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        grads = tuple(torch.empty_like(tensor) for tensor in kept[:3])
        flops = int(self._flops(kept[0]) * PRODUCTS_BACKWARD)
        self._report("npu_fusion_attention backward", flops, *kept, grad, *grads)
        return grads

    def _report(self, name: str, flops: int, *tensors: Tensor) -> None:
        moved = sum(map(size_bytes, tensors))
        self.launches.record(name, "attention", tensors[0].dtype, moved, flops=flops)

    @staticmethod
    def _flops(query: Tensor) -> int:
        length, batch, width = query.shape
        return 2 * batch * length * (length + 1) * width


@dataclass(frozen=True)
class _Norm:
    """It keeps the input, the weight and an fp32 number per row."""

    launches: Launches

    def forward(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, weight = inputs
        rows = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        self.launches.record("npu_rms_norm", "other", x.dtype, 2 * size_bytes(x))
        return torch.empty_like(x), (x, weight, rows)

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        x, weight, _ = kept
        moved = 2 * size_bytes(x) + size_bytes(grad)
        self.launches.record("npu_rms_norm backward", "other", x.dtype, moved)
        # The kernel gives the weight's gradient in fp32, which autograd then narrows.
        grad_weight = torch.empty_like(weight, dtype=torch.float32)
        return torch.empty_like(x), grad_weight.to(weight.dtype)


@dataclass(frozen=True)
class _GatedSilu:
    """From [n, 2F] to [n, F]; it keeps its input."""

    launches: Launches

    def forward(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        (x,) = inputs
        result = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        moved = size_bytes(x) + size_bytes(result)
        self.launches.record("npu_swiglu", "other", x.dtype, moved)
        return result, (x,)

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        (x,) = kept
        moved = 2 * size_bytes(x) + size_bytes(grad)
        self.launches.record("npu_swiglu backward", "other", x.dtype, moved)
        return (torch.empty_like(x),)


@dataclass(frozen=True)
class _Rotation:
    """It keeps its arguments: torch_npu's derivative names all three."""

    launches: Launches

    def forward(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = inputs[0]
        self.launches.record("npu_rotary_mul", "other", x.dtype, 2 * size_bytes(x))
        return torch.empty_like(x), inputs

    def backward(self, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        self.launches.record("npu_rotary_mul backward", "other", grad.dtype, 2 * size_bytes(grad))
        return torch.empty_like(grad), None, None
