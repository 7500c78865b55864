"""RMSNorm: statistics and product in fp32, the result in the input's dtype.

y = x * rsqrt(mean(x^2) + eps) * weight (xAI's model.py:592-624; plain weight, not 1 + weight).
The backward keeps the input and one fp32 number per row, and works with sequence parallelism:
there each tensor-parallel rank sees part of the sequence, so the weight is marked for a sum over
those ranks. (megatron-core's own torch norm refuses sequence parallelism.)
"""

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from ml_models.layers.device import parameter_device
from ml_models.layers.kernels import kernel


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


class _RMSNormFunction(torch.autograd.Function):
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


class RMSNorm(torch.nn.Module):
    """Weight [hidden_size], ones at first. Arguments as megatron-core gives them to a norm."""

    use_compiled = False

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(
            torch.ones(hidden_size, dtype=config.params_dtype, device=parameter_device(config))
        )
        # Read by megatron-core, which sums the gradients of such weights over the TP ranks.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        result: Tensor = _RMSNormFunction.apply(x, self.weight, self.eps, self.use_compiled)
        return result
