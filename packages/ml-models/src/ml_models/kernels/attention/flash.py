"""Attention by the package flash-attn, whose `softcap` is Grok-1's cap.

Its contract (flash_attn_func, version 2.6 and newer): query [B, S, N, D], key and value
[B, S, G, D], fp16 or bf16 on a GPU, the last dimension contiguous; softcap 0.0 means no cap. The
package is not a dependency, and nothing here could run it: the tests hold the call to a stand-in
that implements this contract and refuses anything else.
"""

from importlib import import_module

import torch
from torch import Tensor

from ml_models.scoring import Scoring


def causal_attention(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    scoring: Scoring,
    _: bool = False,
) -> Tensor:
    """Causal attention [S, B, N*D]; query head n reads group n // (N / G)."""
    attend = import_module("flash_attn").flash_attn_func
    out_BSND: Tensor = attend(
        query_SBND.transpose(0, 1),
        key_SBGD.transpose(0, 1),
        value_SBGD.transpose(0, 1),
        softmax_scale=scoring.scale,
        causal=True,
        softcap=scoring.cap or 0.0,
        # Its backward pass adds with atomics, in any order, unless it is told not to.
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return out_BSND.transpose(0, 1).flatten(2)
