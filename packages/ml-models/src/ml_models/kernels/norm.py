"""RMSNorm: statistics and product in fp32, the result in the input's dtype.

y = x * rsqrt(mean(x^2) + eps) * weight (xAI's model.py:592-624; plain weight, not 1 + weight).
The backward pass keeps the input and one fp32 number per row.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ml_models.kernels.execution import kernel
from ml_models.kernels.npu import torch_npu


def normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The result and, per row, 1 / sqrt(mean(x^2) + eps)."""
    x32 = x.float()
    # In place from the norm on: no second tensor of the input's size but the result.
    rstd = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
    rstd = rstd.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x32 * rstd).mul_(weight.float()).to(x.dtype), rstd


def normalise_backward(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    normed = x.float() * rstd
    grad32 = grad.float()
    grad_weight = (grad32 * normed).flatten(0, -2).sum(0)
    scaled = grad32 * weight.float()
    mean = (scaled * normed).mean(-1, keepdim=True)
    grad_x = scaled.sub_(normed.mul_(mean)).mul_(rstd)
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype)


class RMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, compiled: bool) -> Tensor:
        result, rstd = kernel(normalise, compiled)(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        ctx.compiled = compiled
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        backward = kernel(normalise_backward, ctx.compiled)
        return *backward(grad, *ctx.saved_tensors), None, None


def by_torch_operations(x: Tensor, weight: Tensor, eps: float, compiled: bool) -> Tensor:
    """The formula above, eager or compiled."""
    result: Tensor = RMSNormFunction.apply(x, weight, eps, compiled)
    return result


def compiled_norm(x: Tensor, weight: Tensor, eps: float, _: bool) -> Tensor:
    """The formula above, compiled whatever the other operations are."""
    return by_torch_operations(x, weight, eps, True)


def fused_norm(x: Tensor, weight: Tensor, eps: float, _: bool) -> Tensor:
    """torch's kernel, which also computes in fp32 and rounds once, to the input's dtype."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)


def npu_norm(x: Tensor, weight: Tensor, eps: float, _: bool) -> Tensor:
    """torch_npu's kernel; its second result is 1 / sqrt(mean(x^2) + eps)."""
    result: Tensor = torch_npu().npu_rms_norm(x, weight, epsilon=eps)[0]
    return result


Norm = Callable[[Tensor, Tensor, float, bool], Tensor]
"""(x [..., H], weight [H], eps, compiled) -> [..., H]."""

NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "torch": by_torch_operations,
        "compiled": compiled_norm,
        "fused": fused_norm,
        "npu_rms_norm": npu_norm,
    }
)
"""By the form's name in kernels/forms.py."""
