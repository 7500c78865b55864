"""Rotary positions, rotate-half over all channels, the products in fp32.

xAI multiplies in fp32 and casts the result (model.py:627-689); megatron-core and hpcai-tech cast
cosine and sine first, which differs in bf16 only.
"""

import torch
from torch import Tensor


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
