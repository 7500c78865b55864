"""Attention with a cap by torch.nn.attention.flex_attention: one fused kernel each way.

torch.compile writes the kernels with triton when a length is first met. The backward pass keeps
query, key, value, the output and a number per query and head. flex_attention has no backward pass
on a CPU, where the tests hold this rule and mask to the reference by its own formula in torch.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ml_models.kernels.attention.temperature import temperatures
from ml_models.scoring import Scoring

BLOCK = 128
"""Queries and keys per block of the mask: flex_attention's own default."""


def causal_attention(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    scoring: Scoring,
    _: bool = False,
) -> Tensor:
    """Causal attention [S, B, N*D]; query head n reads group n // (N / G). Always compiled."""
    length = query_SBND.shape[0]
    out_BNSD = _compiled_flex_attention()(
        query_SBND.permute(1, 2, 0, 3),
        key_SBGD.permute(1, 2, 0, 3),
        value_SBGD.permute(1, 2, 0, 3),
        score_mod=score_rule(scoring, length, query_SBND.device),
        block_mask=causal_blocks(length, query_SBND.device),
        scale=scoring.scale,
        enable_gqa=True,
    )
    out: Tensor = out_BNSD.permute(2, 0, 1, 3).flatten(2)
    return out


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    # Without torch.compile flex_attention makes full score matrices; with fullgraph it raises where
    # it would fall back to that. Sizes are fixed, because a training run has a single length, and
    # because with open sizes the cap would become an input that is loaded for each score.
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


ScoreRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(scaled score, batch, head, query position, key position) -> score before the mask."""


@functools.cache
def score_rule(scoring: Scoring, length: int, device: torch.device) -> ScoreRule | None:
    """flex_attention's score_mod; the same object for equal rules, so that it compiles once."""
    cap = scoring.cap

    def capped(score: Tensor, _b: Tensor, _h: Tensor, _q: Tensor, _k: Tensor) -> Tensor:
        if cap is None:
            return score
        # cap * tanh(score / cap), written with a sigmoid: that is a hardware exponential and a
        # division on a GPU. tanh is a routine of some 30 instructions, and runs for every score.
        return 2 * cap * torch.sigmoid(score * (2 / cap)) - cap

    if scoring.temperature_length is None or length - 1 <= scoring.temperature_length:
        return None if cap is None else capped
    # A table by position, as a logarithm of each score's position would cost what the cap costs.
    factors = temperatures(0, length, scoring.temperature_length, device).float()

    def capped_and_tempered(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return capped(score, b, h, q, k) * factors[q]

    return capped_and_tempered


def _is_visible(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


@functools.lru_cache(maxsize=8)
def causal_blocks(length: int, device: torch.device) -> BlockMask:
    """The causal mask in blocks: below the diagonal whole, on it by position.

    Made from the blocks' numbers: torch's create_block_mask would fill a length x length matrix.
    """
    count = -(-length // BLOCK)
    rows = torch.arange(count, dtype=torch.int32, device=device)
    diagonal = torch.zeros(1, 1, count, count, dtype=torch.int32, device=device)
    diagonal[..., 0] = rows
    return BlockMask.from_kv_blocks(
        kv_num_blocks=torch.ones(1, 1, count, dtype=torch.int32, device=device),
        kv_indices=diagonal,
        full_kv_num_blocks=rows.expand(1, 1, count).contiguous(),
        full_kv_indices=rows.expand(1, 1, count, count).contiguous(),
        BLOCK_SIZE=BLOCK,
        mask_mod=_is_visible,
        seq_lengths=(length, length),
    )
