"""Experts one after the other: each product is a matrix product over the expert's rows.

Tokens come sorted by expert. An expert without tokens gets zero gradients, never none. Gate
probabilities weigh the inner activation, which is the same as weighing the output. What is kept
for the backward pass: the input, the first product's output and the probabilities.

Under megatron-core's DistributedDataParallel the weights' gradients are added to its buffer
(`main_grad`) by the products that compute them. A tensor of all experts' gradients, new in each
step, would cost more than its arithmetic: 100 MiB are 25,000 page faults.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ml_models.kernels.activation import gated_product, gated_product_backward
from ml_models.kernels.execution import kernel


class Product(NamedTuple):
    """How the inner product of an expert is computed."""

    activation: str
    """A name of kernels/activation.py."""
    compiled: bool


class ExpertFunction(torch.autograd.Function):
    """Tokens [n, H] sorted by expert, with gate probabilities [n], through their experts."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        probs: Tensor,
        fc1: Tensor,
        fc2: Tensor,
        counts: list[int],
        product: "Product",
    ) -> Tensor:
        width = fc2.shape[-1]
        inner = x.new_empty(x.shape[0], 2 * width)
        out = torch.empty_like(x)
        gated = kernel(gated_product, product.compiled)
        for expert, rows in _ranges(counts):
            # Gate and value in one product: [n, H] @ [H, 2F'].
            torch.mm(x[rows], fc1[expert].view(2 * width, -1).t(), out=inner[rows])
            weighted = gated(inner[rows], probs[rows], product.activation)
            torch.mm(weighted, fc2[expert].t(), out=out[rows])
        ctx.save_for_backward(x, probs, fc1, fc2, inner)
        ctx.weights, ctx.counts, ctx.product = (fc1, fc2), counts, product
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, probs, fc1, fc2, inner = ctx.saved_tensors
        width = fc2.shape[-1]
        grad_x, grad_probs = torch.empty_like(x), torch.empty_like(probs)
        grad_fc1, grad_fc2 = (_WeightGradient(weight) for weight in ctx.weights)
        gated = kernel(gated_product_backward, ctx.product.compiled)
        for expert, rows in _ranges(ctx.counts):
            weighted = (grad_out[rows] * probs[rows, None]).to(grad_out.dtype)
            grad = torch.mm(weighted, fc2[expert])
            product, grad_inner, grad_probs[rows] = gated(
                grad, inner[rows], probs[rows], ctx.product.activation
            )
            grad_fc2.add(expert, weighted.t(), product)
            torch.mm(grad_inner, fc1[expert].view(2 * width, -1), out=grad_x[rows])
            grad_fc1.add(expert, grad_inner.t(), x[rows])
        return grad_x, grad_probs, grad_fc1.result, grad_fc2.result, None, None


class _WeightGradient:
    """The gradient of a weight: part of megatron-core's buffer if that exists, else a tensor.

    `result` is what autograd gets. Beside a buffer its values are never read, as for core's own
    gradient_accumulation_fusion: DistributedDataParallel's hook looks at grad_added_to_main_grad.
    """

    def __init__(self, weight: Any) -> None:
        self.result = torch.empty_like(weight)
        self._sum: Tensor | None = None
        if hasattr(weight, "grad_added_to_main_grad") and weight.requires_grad:
            self._sum = weight.main_grad
            weight.grad_added_to_main_grad = True

    def add(self, expert: int, first: Tensor, second: Tensor) -> None:
        """Set the gradient of `expert` to first @ second, or add that to the buffer."""
        if self._sum is None:
            torch.mm(first, second, out=self.result[expert].view(first.shape[0], -1))
            return
        target = self._sum[expert].view(first.shape[0], -1)
        if target.dtype == first.dtype:
            target.addmm_(first, second)
        else:
            target.add_(torch.mm(first, second))


def _ranges(counts: list[int]) -> list[tuple[int, slice]]:
    ranges, start = [], 0
    for expert, count in enumerate(counts):
        ranges.append((expert, slice(start, start + count)))
        start += count
    return ranges
