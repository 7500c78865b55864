"""Fused attention kernels on tensors without values: each is reported as a GPU runs it.

Forward, a kernel reads queries, keys and values and writes the output and a number per row.
Backward, a small kernel multiplies the output with its gradient, and a large one computes five
products where the forward pass has two. FLOPs are those of the causal half.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ml_models.costs.operations import size_bytes
from ml_models.costs.packages import importable
from ml_models.costs.stand_in_kernel import Launches, launch
from ml_models.kernels.attention.blocked import device_block_rows
from ml_models.platforms.patch import Patch

PRODUCTS_BACKWARD = 5 / 2
"""Products of the backward kernel per product of the forward one."""


FLASH = frozenset({"flash_attn", "sdpa"})
"""Kernels of FlashAttention-2, whose backward pass adds queries' gradients in fp32."""

FLASH_ROWS = 128
"""FlashAttention-2 pads positions to a multiple of it (csrc/flash_attn/flash_api.cpp, mha_bwd)."""


@dataclass(frozen=True)
class FusedAttention:
    """Over query [B, N, S, D] and key and value [B, G, S, D].

    It keeps what such a kernel keeps for the backward pass: its inputs, the output and an fp32
    number per row. The backward pass has the same gradients and work space in memory.
    """

    name: str
    launches: Launches

    def forward(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output, and what is kept."""
        query = inputs[0]
        out = torch.empty_like(query)
        rows = query.new_empty(query.shape[:3], dtype=torch.float32)
        moved = sum(map(size_bytes, (*inputs, out, rows)))
        flops = self._flops(query)
        self.launches.record(self.name, "attention", query.dtype, moved, flops=flops)
        return out, (*inputs, out, rows)

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """Gradients of query, key and value."""
        *inputs, out, rows = kept
        query, key, _ = inputs
        row_products = torch.empty_like(rows)
        dots = size_bytes(out) + size_bytes(grad) + size_bytes(row_products)
        self.launches.record(f"{self.name} row products", "other", grad.dtype, dots)
        grads = tuple(torch.empty_like(tensor) for tensor in inputs)
        # Until the kernel has ended.
        work_space = _flash_work_space(query, key) if self.name in FLASH else ()
        moved = 2 * sum(map(size_bytes, inputs)) + size_bytes(grad) + 2 * size_bytes(rows)
        flops = int(self._flops(query) * PRODUCTS_BACKWARD)
        self.launches.record(f"{self.name} backward", "attention", grad.dtype, moved, flops=flops)
        del work_space
        return grads

    @staticmethod
    def _flops(query: Tensor) -> int:
        batch, heads, length, size = query.shape
        return 2 * batch * heads * length * (length + 1) * size


def _flash_work_space(query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    """What FlashAttention-2's backward pass allocates beside the gradients (mha_bwd).

    Queries' gradients are added up in fp32. Those of grouped keys and values are computed per
    query head and added up over the heads of a group afterwards.
    """
    batch, heads, length, size = query.shape
    rows = -(-length // FLASH_ROWS) * FLASH_ROWS
    sums = (query.new_empty(batch, heads, rows, size, dtype=torch.float32),)
    if key.shape[1] == heads:
        return sums
    return *sums, query.new_empty(batch, length, heads, size), torch.empty_like(query)


def attention_stand_ins(launches: Launches) -> tuple[Patch, ...]:
    """Rows for the forms that torch alone offers, for the time of a step on a device.

    Memory is counted as well, so the kernels keep what they keep on a device.
    """

    def flex(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        return launch(FusedAttention("flex_attention", launches), query, key, value)

    def sdpa(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        return launch(FusedAttention("sdpa", launches), query, key, value)

    module = "ml_models.kernels.attention"
    return (
        Patch(
            target=f"{module}.flex:_compiled_flex_attention",
            make=lambda _: lambda: flex,
            reason="code that torch.compile writes cannot run without memory",
        ),
        Patch(
            target=f"{module}.flex:causal_blocks",
            make=lambda _: lambda *_: None,
            reason="the mask is made once in a run, not in each step, and must not stay fake",
        ),
        Patch(
            target=f"{module}.sdpa:scaled_dot_product_attention",
            make=lambda _: sdpa,
            reason="a CPU has another kernel for it",
        ),
        Patch(
            target=f"{module}.blocked:block_rows",
            make=lambda _: lambda length, heads, *_: device_block_rows(length, heads),
            reason="blocks have the sizes of a device",
        ),
    )


@contextlib.contextmanager
def flash_attn_stand_in(launches: Launches) -> Iterator[None]:
    """Inside, `import flash_attn` finds a module whose function reports to `launches`."""

    def flash_attn_func(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        inputs = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return launch(FusedAttention("flash_attn", launches), *inputs).transpose(1, 2)

    module = ModuleType("flash_attn")
    setattr(module, "flash_attn_func", flash_attn_func)  # noqa: B010 - a module made by hand
    with importable(module):
        yield
