"""Causal grouped-query attention with a soft cap, without the S x S scores of all heads.

Shapes: S positions, B batch, N query heads, G groups (key and value heads), R = N / G, D head size.
Per block of queries: scores against the keys up to the block's end, cap * tanh(score / cap), mask,
softmax in fp32 (xAI's model.py:860-876: the cap comes before the mask), product with the values.
Nothing above the diagonal blocks is computed, which halves the arithmetic; the backward pass
recomputes scores from queries and keys, so that a layer keeps its inputs, its output and one
number per query and head: 4 MiB instead of 200 MiB per saved matrix for 12 heads at 2048 tokens.
Every row of scores is complete, so there is no running rescaling and the result is exact.

With a cap c no score exceeds c, so exp(score) needs no shift while c <= 60 (2048 e^60 < 3e38).
"""

from typing import Any

import torch
from torch import Tensor

MAX_UNSHIFTED_CAP = 60.0
BLOCK_SCORES = 1 << 20
"""Scores per block and group: rows are chosen so that a block of them stays in the cache."""


def block_rows(length: int, heads_per_group: int) -> int:
    """Query positions per block: a power of two between 32 and 512."""
    rows = 512
    while rows > 32 and rows * heads_per_group * length > BLOCK_SCORES:
        rows //= 2
    return rows


def _probabilities(
    query: Tensor, key: Tensor, scale: float, cap: float | None, masked: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Unnormalised probabilities [G', rows, keys] in fp32, tanh(score / cap), and row sums.

    `masked` [rows, diagonal keys] is True where a query may not look, over the last keys.
    """
    scores = torch.bmm(query, key.transpose(1, 2)).float()
    diagonal = scores.shape[-1] - masked.shape[-1]
    if cap is None:
        scores.mul_(scale)
        scores[..., diagonal:].masked_fill_(masked, float("-inf"))
        scores.sub_(scores.amax(-1, keepdim=True)).exp_()
        return scores, None, scores.sum(-1, keepdim=True)
    capped = scores.mul_(scale / cap).tanh_()
    shift = 0.0 if cap <= MAX_UNSHIFTED_CAP else cap
    weights = (capped * cap).sub_(shift).exp_() if shift else (capped * cap).exp_()
    weights[..., diagonal:].masked_fill_(masked, 0.0)
    return weights, capped, weights.sum(-1, keepdim=True)


class _BlockedAttention(torch.autograd.Function):
    """query [G', S*R, D] (rows ordered by position, then head), key and value [G', S, D]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, cap: float | None
    ) -> Tensor:
        repeat = query.shape[1] // key.shape[1]
        out = torch.empty_like(query)
        for low, high, masked in _blocks(key.shape[1], repeat, query.device):
            rows = slice(low * repeat, high * repeat)
            weights, _, total = _probabilities(query[:, rows], key[:, :high], scale, cap, masked)
            block = torch.bmm(weights.to(value.dtype), value[:, :high])
            out[:, rows] = block.div_(total)
        ctx.save_for_backward(query, key, value, out)
        ctx.scale, ctx.cap = scale, cap
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out = ctx.saved_tensors
        repeat = query.shape[1] // key.shape[1]
        grad_query = torch.empty_like(query)
        grad_key = torch.zeros_like(key, dtype=torch.float32)
        grad_value = torch.zeros_like(value, dtype=torch.float32)
        for low, high, masked in _blocks(key.shape[1], repeat, query.device):
            rows = slice(low * repeat, high * repeat)
            keys, values, grad = key[:, :high], value[:, :high], grad_out[:, rows]
            weights, capped, total = _probabilities(
                query[:, rows], keys, ctx.scale, ctx.cap, masked
            )
            weights.div_(total)
            grad_value[:, :high] += torch.bmm(weights.to(grad.dtype).transpose(1, 2), grad)
            row_dot = (grad.float() * out[:, rows].float()).sum(-1, keepdim=True)
            grad_scores = torch.bmm(grad, values.transpose(1, 2)).float().sub_(row_dot)
            grad_scores.mul_(weights)
            if capped is not None:
                grad_scores.mul_(capped.square_().neg_().add_(1.0))
            grad_scores = grad_scores.mul_(ctx.scale).to(query.dtype)
            torch.bmm(grad_scores, keys, out=grad_query[:, rows])
            grad_key[:, :high] += torch.bmm(grad_scores.transpose(1, 2), query[:, rows])
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _blocks(length: int, repeat: int, device: torch.device) -> Any:
    """(first query, end, mask of the diagonal block) per block; mask rows repeat per head."""
    rows = block_rows(length, repeat)
    position = torch.arange(min(rows, length), device=device)
    above = position[None, :] > position.repeat_interleave(repeat)[:, None]
    for low in range(0, length, rows):
        high = min(low + rows, length)
        size = high - low
        yield low, high, above[: size * repeat, :size]


def causal_attention(
    query_SBND: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, scale: float, cap: float | None
) -> Tensor:
    """Causal attention [S, B, N*D]; query head n reads group n // (N / G)."""
    length, batch, heads, size = query_SBND.shape
    groups = key_SBGD.shape[2]
    query = query_SBND.view(length, batch, groups, heads // groups, size)
    query = query.permute(1, 2, 0, 3, 4).reshape(batch * groups, -1, size)
    key = key_SBGD.permute(1, 2, 0, 3).reshape(batch * groups, length, size)
    value = value_SBGD.permute(1, 2, 0, 3).reshape(batch * groups, length, size)
    out: Tensor = _BlockedAttention.apply(query, key, value, scale, cap)
    out = out.view(batch, groups, length, heads // groups, size).permute(2, 0, 1, 3, 4)
    return out.reshape(length, batch, heads * size)


def masked_attention(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    masked_B1SS: Tensor,
    scale: float,
    cap: float | None,
) -> Tensor:
    """The same with an arbitrary mask (True: may not look), by full score matrices."""
    repeat = query_SBND.shape[2] // key_SBGD.shape[2]
    key = key_SBGD.repeat_interleave(repeat, dim=2)
    value = value_SBGD.repeat_interleave(repeat, dim=2)
    scores = torch.einsum("sbnd,tbnd->bnst", query_SBND, key).float() * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(masked_B1SS, torch.finfo(torch.float32).min)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)
