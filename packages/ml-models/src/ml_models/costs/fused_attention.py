"""Fused attention kernels on fake tensors: each is recorded as a GPU runs it.

Forward, a kernel reads queries, keys and values and writes the output and a number per row.
Backward, a small kernel multiplies the output with its gradient, and a large one computes five
products where the forward pass has two. FLOPs are those of the causal half.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ml_models.costs.operations import size_bytes
from ml_models.costs.recorder import Recorder
from ml_models.kernels.attention.blocked import device_block_rows
from ml_models.platforms.patch import Patch

PRODUCTS_BACKWARD = 5 / 2
"""Products of the backward kernel per product of the forward one."""


class FusedAttention(torch.autograd.Function):
    """Over query [B, N, S, D] and key and value [B, G, S, D], with the name of the kernel."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, name: str, recorder: Recorder
    ) -> Tensor:
        batch, heads, length, size = query.shape
        ctx.save_for_backward(query, key, value)
        ctx.name, ctx.recorder = name, recorder
        with recorder.paused():
            out = torch.empty_like(query)
        ctx.flops = 2 * batch * heads * length * (length + 1) * size
        ctx.rows_bytes = batch * heads * length * 4
        ctx.inputs_bytes = sum(map(size_bytes, (query, key, value)))
        moved = ctx.inputs_bytes + size_bytes(out) + ctx.rows_bytes
        recorder.record(name, "attention", query.dtype, moved, flops=ctx.flops)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        name, recorder = ctx.name, ctx.recorder
        with recorder.paused():
            grads = tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)
        # The output has the size of its gradient.
        dots = 2 * size_bytes(grad) + ctx.rows_bytes
        recorder.record(f"{name} row products", "other", grad.dtype, dots)
        moved = 2 * ctx.inputs_bytes + size_bytes(grad) + 2 * ctx.rows_bytes
        flops = int(ctx.flops * PRODUCTS_BACKWARD)
        recorder.record(f"{name} backward", "attention", grad.dtype, moved, flops=flops)
        return *grads, None, None


def attention_stand_ins(recorder: Recorder) -> tuple[Patch, ...]:
    """Rows for the forms that torch alone offers, for the time of a step on a device."""

    def flex(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Any:
        return FusedAttention.apply(query, key, value, "flex_attention", recorder)

    def sdpa(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Any:
        return FusedAttention.apply(query, key, value, "sdpa", recorder)

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
def flash_attn_stand_in(recorder: Recorder) -> Iterator[None]:
    """Inside, `import flash_attn` finds a module whose function reports to the recorder."""

    def flash_attn_func(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Any:
        inputs = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return FusedAttention.apply(*inputs, "flash_attn", recorder).transpose(1, 2)

    module = ModuleType("flash_attn")
    setattr(module, "flash_attn_func", flash_attn_func)  # noqa: B010 - a module made by hand
    with mock.patch.dict(sys.modules, {"flash_attn": module}):
        yield
