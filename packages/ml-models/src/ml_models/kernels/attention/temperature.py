"""Attention temperature: the scores of late query positions are multiplied by a factor above 1.

factor(p) = log2(p) / log2(n) where p > n, else 1; p counts from 0 (SGLang's extend_attention.py:504
and decode_attention.py:300; sglang-jax's ref_ragged_paged_attention). Keys and values stay as they
are, so that a cache of them serves every later query.
"""

import math

import torch
from torch import Tensor


def temperatures(first: int, stop: int, length: int, device: torch.device) -> Tensor:
    """Factors in fp64 [stop - first] of the query positions from `first` on."""
    positions = torch.arange(first, stop, device=device).clamp_(min=length)
    # In fp64 whole numbers up to 2^53 are exact. The caller rounds the factor once.
    return positions.double().log2() / math.log2(length)


def largest_temperature(stop: int, length: int) -> float:
    """The factor of the last of `stop` positions, which is the largest."""
    return math.log2(max(stop - 1, length)) / math.log2(length)
