"""Activations by the name that a configuration gives, in fp32, and the product that they gate."""

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Derivative = Callable[[Tensor, Tensor], Tensor]


def _gelu_tanh(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def _gelu_erf(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x)


FORWARD: MappingProxyType[str, Function] = MappingProxyType(
    {"gelu_tanh": _gelu_tanh, "gelu_erf": _gelu_erf, "silu": torch.nn.functional.silu}
)

BACKWARD: MappingProxyType[str, Derivative] = MappingProxyType(
    {
        "gelu_tanh": lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="tanh"),
        "gelu_erf": lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="none"),
        "silu": lambda grad, x: torch.ops.aten.silu_backward(grad, x),
    }
)
"""(gradient of the result, input) -> gradient of the input."""


def gated_product(inner: Tensor, probs: Tensor, activation: str) -> Tensor:
    """act(gate) * value * prob [n, F] in fp32, given in inner's dtype."""
    gate, value = inner.float().chunk(2, dim=-1)
    product = FORWARD[activation](gate).mul_(value).mul_(probs.float()[:, None])
    return product.to(inner.dtype)


def gated_product_backward(
    grad: Tensor, inner: Tensor, probs: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(act(gate) * value, gradient of inner, gradient of probs); `grad` holds the factor prob."""
    gate, value = inner.float().chunk(2, dim=-1)
    grad = grad.float()
    acted = FORWARD[activation](gate)
    product = acted * value
    # grad holds the factor prob, which the gradient of prob itself must not have.
    tiny = torch.finfo(torch.float32).tiny
    grad_probs = (grad * product).sum(-1).div_(probs.float().clamp(min=tiny))
    grad_inner = torch.empty_like(inner)
    width = gate.shape[-1]
    grad_inner[:, width:] = acted.mul_(grad)
    grad_inner[:, :width] = BACKWARD[activation](grad.mul_(value), gate)
    return product.to(inner.dtype), grad_inner, grad_probs.to(probs.dtype)
