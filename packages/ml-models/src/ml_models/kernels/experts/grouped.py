"""Experts by grouped products: one kernel multiplies the rows of all experts by their matrices.

The arithmetic is that of loop.py. Weight gradients are a product per expert, as there, but on an
NPU: it has a grouped product that adds to the fp32 buffer.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ml_models.kernels.activation import gated_product_of
from ml_models.kernels.experts.loop import Product, ranges_of
from ml_models.kernels.experts.weight_gradient import WeightGradient
from ml_models.kernels.npu import torch_npu
from ml_models.kernels.weight_gradient import ends_of


class Multiply(NamedTuple):
    """A grouped product."""

    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(rows [n, K] sorted by expert, matrices [L, K, N], ends of their rows [L]) -> [n, N]."""
    ends: torch.dtype
    """Of the ends."""

    def __call__(self, rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
        """The product; a rank may get no token at all, which grouped kernels do not take."""
        if not rows.shape[0]:
            return rows.new_empty(0, matrices.shape[-1])
        return self.function(rows, matrices, ends)


def multiply_by_torch(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """torch's grouped_mm."""
    return torch.nn.functional.grouped_mm(rows, matrices, offs=ends)


def multiply_by_npu(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """torch_npu's npu_grouped_matmul: rows in one tensor (split_item 2), grouped (group_type 0).

    group_list_type 0 gives ends. Sizes (type 1) are refused for a single group, such as a rank's
    only expert. Rows must not be a transposed tensor, matrices may.
    Contract: the page of npu_grouped_matmul in docs/zh/custom_APIs of github.com/Ascend/op-plugin.
    """
    (result,) = torch_npu().npu_grouped_matmul(
        [rows.contiguous()],
        [matrices],
        group_list=ends,
        split_item=2,
        group_type=0,
        group_list_type=0,
    )
    return result  # type: ignore[no-any-return]


MULTIPLY: Mapping[str, Multiply] = MappingProxyType(
    {
        "grouped_mm": Multiply(multiply_by_torch, torch.int32),
        "npu_grouped_matmul": Multiply(multiply_by_npu, torch.int64),
    }
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
        multiply = MULTIPLY[product.experts]
        gated = gated_product_of(product.gated, product.compiled)
        ends = ends_of(counts, x.device, multiply.ends)
        inner = multiply(x, fc1.flatten(1, 2).transpose(1, 2), ends)
        weighted = gated.forward(inner, probs, product.activation)
        out = multiply(weighted, fc2.transpose(1, 2), ends)
        ctx.save_for_backward(x, probs, fc1, fc2, inner, ends)
        ctx.weights, ctx.counts, ctx.product = (fc1, fc2), counts, product
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, probs, fc1, fc2, inner, ends = ctx.saved_tensors
        product: Product = ctx.product
        multiply = MULTIPLY[product.experts]
        gated = gated_product_of(product.gated, product.compiled)
        weighted = gated.weigh(grad_out, probs)
        grad = multiply(weighted, fc2, ends)
        acted, grad_inner, grad_probs = gated.backward(grad, inner, probs, product.activation)
        grad_x = multiply(grad_inner, fc1.flatten(1, 2), ends)
        grad_fc1, grad_fc2 = (WeightGradient(w, product.weight_gradient) for w in ctx.weights)
        ranges = ranges_of(ctx.counts)
        grad_fc2.add_all(weighted, acted, ranges, ends)
        grad_fc1.add_all(grad_inner, x, ranges, ends)
        return grad_x, grad_probs, grad_fc1.result, grad_fc2.result, None, None
