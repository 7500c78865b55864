"""Activations by the name that a configuration gives, in fp32, and the product that they gate."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ml_models.kernels.execution import kernel
from ml_models.kernels.npu import torch_npu

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


def weigh(grad: Tensor, probs: Tensor) -> Tensor:
    """grad * prob [n, H] in grad's dtype: the gradient that reaches the second product."""
    return (grad * probs[:, None]).to(grad.dtype)


def npu_gated_product(inner: Tensor, probs: Tensor, _: str) -> Tensor:
    """gated_product for SiLU by torch_npu's kernel, whose first half of the columns is the gate.

    It takes neither an empty nor a strided tensor: docs/zh/custom_APIs/torch_npu of
    github.com/Ascend/op-plugin, npu_swiglu. An expert without tokens gives an empty one.
    """
    if not inner.shape[0]:
        return inner.new_empty(0, inner.shape[1] // 2)
    product: Tensor = torch_npu().npu_swiglu(inner.contiguous(), dim=-1)
    return (product * probs[:, None]).to(inner.dtype)


def npu_gated_product_backward(
    grad: Tensor, inner: Tensor, probs: Tensor, _: str
) -> tuple[Tensor, Tensor, Tensor]:
    """gated_product_backward by the gradient of torch_npu's kernel."""
    if not inner.shape[0]:
        return torch.empty_like(grad), torch.empty_like(inner), torch.empty_like(probs)
    with torch.enable_grad():
        inner = inner.detach().contiguous().requires_grad_()
        product = torch_npu().npu_swiglu(inner, dim=-1)
        (grad_inner,) = torch.autograd.grad(product, inner, grad)
    product = product.detach()
    tiny = torch.finfo(torch.float32).tiny
    grad_probs = (grad.float() * product.float()).sum(-1).div_(probs.float().clamp(min=tiny))
    return product, grad_inner, grad_probs.to(probs.dtype)


class GatedProduct(NamedTuple):
    """The functions between an expert's two products."""

    forward: Callable[[Tensor, Tensor, str], Tensor]
    """gated_product."""
    backward: Callable[[Tensor, Tensor, Tensor, str], tuple[Tensor, Tensor, Tensor]]
    """gated_product_backward."""
    weigh: Callable[[Tensor, Tensor], Tensor]


def gated_product_of(form: str, compiled: bool) -> GatedProduct:
    """The functions of a form of kernels/forms.py, eager or compiled."""
    compiled = compiled or form == "compiled"
    forward, backward = _GATED_PRODUCTS[form]
    return GatedProduct(
        forward=kernel(forward, compiled),
        backward=kernel(backward, compiled),
        weigh=kernel(weigh, compiled),
    )


class _Pair(NamedTuple):
    forward: Callable[[Tensor, Tensor, str], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor, str], tuple[Tensor, Tensor, Tensor]]


_TORCH = _Pair(gated_product, gated_product_backward)
_GATED_PRODUCTS: Mapping[str, _Pair] = MappingProxyType(
    {
        "torch": _TORCH,
        "compiled": _TORCH,
        "npu_swiglu": _Pair(npu_gated_product, npu_gated_product_backward),
    }
)
