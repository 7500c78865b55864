"""Rotary positions, rotate-half over all channels, the products in fp32.

xAI multiplies in fp32 and casts the result (model.py:627-689); megatron-core and hpcai-tech cast
cosine and sine first, which differs in bf16 only.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ml_models.kernels.execution import kernel
from ml_models.kernels.npu import torch_npu


def rotate(x_SBND: Tensor, angles_S11D: Tensor) -> Tensor:
    """Turn each pair (channel i, channel i + D/2) by its position's angle.

    `angles_S11D` is what megatron-core's RotaryEmbedding gives: both halves hold the same angles.
    """
    half = x_SBND.shape[-1] // 2
    angles = angles_S11D[: x_SBND.shape[0], ..., :half].float()
    cos, sin = angles.cos(), angles.sin()
    first, second = x_SBND[..., :half].float(), x_SBND[..., half:].float()
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x_SBND.dtype)


class _CompiledRotation(torch.autograd.Function):
    """A rotation's gradient is the rotation by the opposite angle: nothing but angles is kept."""

    @staticmethod
    def forward(ctx: Any, x_SBND: Tensor, angles_S11D: Tensor) -> Tensor:
        ctx.save_for_backward(angles_S11D)
        return kernel(rotate, True)(x_SBND, angles_S11D)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (angles_S11D,) = ctx.saved_tensors
        return kernel(rotate, True)(grad, -angles_S11D), None


def by_torch_operations(x_SBND: Tensor, angles_S11D: Tensor, compiled: bool) -> Tensor:
    """The formula above, eager or compiled."""
    return compiled_rotation(x_SBND, angles_S11D, True) if compiled else rotate(x_SBND, angles_S11D)


def compiled_rotation(x_SBND: Tensor, angles_S11D: Tensor, _: bool) -> Tensor:
    """The formula above, compiled whatever the other operations are."""
    result: Tensor = _CompiledRotation.apply(x_SBND, angles_S11D)
    return result


def npu_rotation(x_SBND: Tensor, angles_S11D: Tensor, _: bool) -> Tensor:
    """torch_npu's kernel, which takes [S, B, N, D] with cosine and sine of the same dtype.

    It multiplies in its arguments' dtype, so they are widened to fp32.
    """
    angles = angles_S11D[: x_SBND.shape[0]].float()
    turned: Tensor = torch_npu().npu_rotary_mul(x_SBND.float(), angles.cos(), angles.sin())
    return turned.to(x_SBND.dtype)


Rotation = Callable[[Tensor, Tensor, bool], Tensor]
"""(x [S, B, N, D], angles [S or more, 1, 1, D], compiled) -> [S, B, N, D]."""

ROTATIONS: Mapping[str, Rotation] = MappingProxyType(
    {
        "torch": by_torch_operations,
        "compiled": compiled_rotation,
        "npu_rotary_mul": npu_rotation,
    }
)
"""By the form's name in kernels/forms.py."""
