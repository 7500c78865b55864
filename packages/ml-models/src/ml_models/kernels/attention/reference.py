"""Attention by full score matrices: the reference, and the form for any mask.

Memory: B * N * S * S scores, three times in fp32. Generation with a cache and evaluation with a
mask use it; training uses it with --attention-backend unfused alone.
"""

import torch
from torch import Tensor

from ml_models.kernels.attention.temperature import temperatures
from ml_models.kernels.precision import wide
from ml_models.scoring import Scoring


def masked_attention(
    query_SBND: Tensor,
    key_TBGD: Tensor,
    value_TBGD: Tensor,
    masked_B1ST: Tensor,
    scoring: Scoring,
) -> Tensor:
    """Attention [S, B, N*D] with any mask (True: may not look) over T keys.

    The queries are the last S of the T positions, which a temperature counts.
    """
    repeat = query_SBND.shape[2] // key_TBGD.shape[2]
    key = key_TBGD.repeat_interleave(repeat, dim=2)
    value = value_TBGD.repeat_interleave(repeat, dim=2)
    scores = wide(torch.einsum("sbnd,tbnd->bnst", query_SBND, key)) * scoring.scale
    if scoring.cap is not None:
        scores = scoring.cap * torch.tanh(scores / scoring.cap)
    if scoring.temperature_length is not None:
        keys, queries = key.shape[0], query_SBND.shape[0]
        factors = temperatures(keys - queries, keys, scoring.temperature_length, scores.device)
        scores = scores * factors[:, None].to(scores.dtype)
    scores = scores.masked_fill(masked_B1ST, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)


def causal_attention(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    scoring: Scoring,
    _: bool = False,
) -> Tensor:
    """Causal attention [S, B, N*D]; query head n reads group n // (N / G)."""
    length = query_SBND.shape[0]
    later = torch.ones(length, length, dtype=torch.bool, device=query_SBND.device).triu(1)
    return masked_attention(query_SBND, key_SBGD, value_SBGD, later[None, None], scoring)
