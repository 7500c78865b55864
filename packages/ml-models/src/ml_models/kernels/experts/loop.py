"""Experts one after the other: each product is a matrix product over the expert's rows.

Tokens come sorted by expert. An expert without tokens gets zero gradients, never none. Gate
probabilities weigh the inner activation, which is the same as weighing the output. What is kept
for the backward pass: the input, the first product's output and the probabilities.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ml_models.kernels.activation import gated_product_of
from ml_models.kernels.experts.weight_gradient import WeightGradient


class Product(NamedTuple):
    """How the experts are computed: names of forms from kernels/forms.py."""

    activation: str
    """A name of kernels/activation.py."""
    compiled: bool
    experts: str = "loop"
    gated: str = "torch"
    weight_gradient: str = "add"


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
        gated = gated_product_of(product.gated, product.compiled)
        for expert, rows in ranges_of(counts):
            # Gate and value in one product: [n, H] @ [H, 2F'].
            torch.mm(x[rows], fc1[expert].view(2 * width, -1).t(), out=inner[rows])
            weighted = gated.forward(inner[rows], probs[rows], product.activation)
            torch.mm(weighted, fc2[expert].t(), out=out[rows])
        ctx.save_for_backward(x, probs, fc1, fc2, inner)
        ctx.weights, ctx.counts, ctx.product = (fc1, fc2), counts, product
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, probs, fc1, fc2, inner = ctx.saved_tensors
        width = fc2.shape[-1]
        grad_x, grad_probs = torch.empty_like(x), torch.empty_like(probs)
        grad_fc1, grad_fc2 = (WeightGradient(w, ctx.product.weight_gradient) for w in ctx.weights)
        gated = gated_product_of(ctx.product.gated, ctx.product.compiled)
        for expert, rows in ranges_of(ctx.counts):
            weighted = gated.weigh(grad_out[rows], probs[rows])
            grad = torch.mm(weighted, fc2[expert])
            product, grad_inner, grad_probs[rows] = gated.backward(
                grad, inner[rows], probs[rows], ctx.product.activation
            )
            grad_fc2.add(expert, weighted, product)
            torch.mm(grad_inner, fc1[expert].view(2 * width, -1), out=grad_x[rows])
            grad_fc1.add(expert, grad_inner, x[rows])
        return grad_x, grad_probs, grad_fc1.result, grad_fc2.result, None, None


def ranges_of(counts: list[int]) -> list[tuple[int, slice]]:
    """Each expert with its rows."""
    ranges, start = [], 0
    for expert, count in enumerate(counts):
        ranges.append((expert, slice(start, start + count)))
        start += count
    return ranges
