"""Experts by grouped products: one kernel multiplies the rows of all experts by their matrices.

The arithmetic is that of loop.py. Weight gradients are a product per expert there and here, because
they are added to an fp32 buffer, which no grouped product does.
"""

from collections.abc import Callable, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ml_models.kernels.activation import gated_product_of
from ml_models.kernels.experts.loop import Product, ranges_of
from ml_models.kernels.experts.weight_gradient import WeightGradient
from ml_models.kernels.npu import torch_npu

Multiply = Callable[[Tensor, Tensor, list[int]], Tensor]
"""(rows [n, K] sorted by expert, matrices [L, K, N], rows per expert) -> [n, N]."""


def multiply_by_torch(rows: Tensor, matrices: Tensor, counts: list[int]) -> Tensor:
    """torch's grouped_mm, which takes the end of each expert's rows."""
    ends = torch.tensor(list(accumulate(counts)), dtype=torch.int32, device=rows.device)
    return torch.nn.functional.grouped_mm(rows, matrices, offs=ends)


def multiply_by_npu(rows: Tensor, matrices: Tensor, counts: list[int]) -> Tensor:
    """torch_npu's npu_grouped_matmul: rows in one tensor (split_item 2), grouped (group_type 0).

    group_list_type 1 gives the rows of each expert, not their ends.
    """
    group_list = torch.tensor(counts, dtype=torch.int64, device=rows.device)
    (result,) = torch_npu().npu_grouped_matmul(
        [rows], [matrices], group_list=group_list, split_item=2, group_type=0, group_list_type=1
    )
    return result  # type: ignore[no-any-return]


MULTIPLY: Mapping[str, Multiply] = MappingProxyType(
    {"grouped_mm": multiply_by_torch, "npu_grouped_matmul": multiply_by_npu}
)
"""By the form's name in kernels/forms.py."""


class GroupedExpertFunction(torch.autograd.Function):
    """Tokens [n, H] sorted by expert, with gate probabilities [n], through their experts."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        probs: Tensor,
        fc1: Tensor,
        fc2: Tensor,
        counts: list[int],
        product: Product,
    ) -> Tensor:
        multiply = _multiply_of(product)
        gated = gated_product_of(product.gated, product.compiled)
        inner = multiply(x, fc1.flatten(1, 2).transpose(1, 2), counts)
        weighted = gated.forward(inner, probs, product.activation)
        out = multiply(weighted, fc2.transpose(1, 2), counts)
        ctx.save_for_backward(x, probs, fc1, fc2, inner)
        ctx.weights, ctx.counts, ctx.product = (fc1, fc2), counts, product
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, probs, fc1, fc2, inner = ctx.saved_tensors
        product: Product = ctx.product
        multiply = _multiply_of(product)
        gated = gated_product_of(product.gated, product.compiled)
        weighted = gated.weigh(grad_out, probs)
        grad = multiply(weighted, fc2, ctx.counts)
        acted, grad_inner, grad_probs = gated.backward(grad, inner, probs, product.activation)
        grad_x = multiply(grad_inner, fc1.flatten(1, 2), ctx.counts)
        grad_fc1, grad_fc2 = (WeightGradient(w, product.weight_gradient) for w in ctx.weights)
        for expert, rows in ranges_of(ctx.counts):
            grad_fc2.add(expert, weighted[rows].t(), acted[rows])
            grad_fc1.add(expert, grad_inner[rows].t(), x[rows])
        return grad_x, grad_probs, grad_fc1.result, grad_fc2.result, None, None


def _multiply_of(product: Product) -> Multiply:
    multiply = MULTIPLY[product.experts]

    def checked(rows: Tensor, matrices: Tensor, counts: list[int]) -> Tensor:
        # A rank may get no token at all, which grouped kernels do not take.
        if not rows.shape[0]:
            return rows.new_empty(0, matrices.shape[-1])
        return multiply(rows, matrices, counts)

    return checked
