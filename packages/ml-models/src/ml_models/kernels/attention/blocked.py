"""Causal grouped-query attention with a soft cap, without the S x S scores of all heads.

Shapes: S positions, B batch, N query heads, G groups (key and value heads), R = N / G, D head size.
Per block of queries: scores against the keys up to the block's end, cap * tanh(score / cap), mask,
softmax in fp32 (xAI's model.py:860-876: the cap comes before the mask), product with the values.
Nothing above the diagonal blocks is computed, which halves the arithmetic; the backward pass
recomputes scores from queries and keys, so that a layer keeps its inputs, its output and one
number per query and head: 4 MiB instead of 200 MiB per saved matrix for 12 heads at 2048 tokens.
Every row of scores is complete, so there is no running rescaling and the result is exact.

Factors go to the small side of a product (queries, gradients of [rows, D]), not over [rows, keys].
The largest block's scores on a device take 0.5 GiB in bf16; a step of the backward pass holds four
matrices of that size, and in the eager form as many in fp32.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ml_models.kernels.attention.block_scores import (
    block_rule,
    fused_gradients,
    fused_weights,
    score_gradients,
    weights_of,
)
from ml_models.kernels.execution import kernel
from ml_models.kernels.precision import wide, wide_dtype
from ml_models.scoring import Scoring

CACHED_SCORES = 1 << 20
"""On a CPU, scores per block and group: they stay in the cache."""
DEVICE_SCORES = 1 << 28
"""Elsewhere, scores per block over all heads."""


def block_rows(length: int, heads: int, repeat: int, device: torch.device) -> int:
    """Query positions per block, a power of two; `heads` over all sequences, `repeat` per group.

    On a CPU small blocks save the half above the diagonal: at 512 positions 128 rows take 42 ms
    for both passes, 512 rows 63 ms.
    """
    if device.type != "cpu":
        return device_block_rows(length, heads)
    rows = 128
    while rows > 32 and rows * repeat * length > CACHED_SCORES:
        rows //= 2
    return rows


def device_block_rows(length: int, heads: int) -> int:
    """Query positions per block on a device, where each block costs launches of its kernels.

    About 16 blocks: they compute 1/16 more scores than the causal half. At least 128 rows, which
    fill a tile of a product, and fewer blocks only where their scores fit DEVICE_SCORES.
    """
    rows = 128
    while rows * 16 < length and 2 * rows * heads * length <= DEVICE_SCORES:
        rows *= 2
    return rows


def _product(first: Tensor, second: Tensor, factor: float) -> Tensor:
    """factor * first @ second."""
    empty = first.new_empty(first.shape[0], first.shape[1], second.shape[2])
    return torch.baddbmm(empty, first, second, beta=0, alpha=factor)


def _factor(scoring: Scoring) -> float:
    """What q.k is multiplied by: with a cap, scores come already divided by it."""
    return scoring.scale if scoring.cap is None else scoring.scale / scoring.cap


class _BlockedAttention(torch.autograd.Function):
    """Over query [G', S*R, D], its rows by position, then head, and key and value [G', S, D].

    G' counts the groups of all sequences of the batch: batch * groups.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scoring: Scoring,
        compiled: bool,
    ) -> Tensor:
        repeat = query.shape[1] // key.shape[1]
        out = torch.empty_like(query)
        totals = query.new_empty(*query.shape[:2], 1, dtype=wide_dtype(query.dtype))
        factor = _factor(scoring)
        for low, high, masked in _blocks(query, key):
            # Keys behind the block's last query are never looked at: their scores are not computed.
            rows = slice(low * repeat, high * repeat)
            scores = _product(query[:, rows], key[:, :high].transpose(1, 2), factor)
            rule = block_rule(scoring, low, high, repeat, query)
            if compiled:
                weights, total, _ = kernel(fused_weights, True)(scores, masked, rule)
            else:
                weights, _ = weights_of(wide(scores), masked, rule, False)
                total = weights.sum(-1, keepdim=True)
            block = torch.bmm(weights.to(value.dtype), value[:, :high])
            # The softmax's division comes last: over [rows, D], not over [rows, keys].
            out[:, rows] = block.div_(total)
            totals[:, rows] = total
        ctx.save_for_backward(query, key, value, out, totals)
        ctx.scoring, ctx.compiled = scoring, compiled
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, totals = ctx.saved_tensors
        scoring: Scoring = ctx.scoring
        factor = _factor(scoring)
        repeat = query.shape[1] // key.shape[1]
        grad_query = torch.empty_like(query)
        # Every block of queries adds to the keys before it: in bf16 small terms would be lost.
        grad_key = torch.zeros_like(key, dtype=wide_dtype(key.dtype))
        grad_value = torch.zeros_like(value, dtype=wide_dtype(key.dtype))
        for low, high, masked in _blocks(query, key):
            rows = slice(low * repeat, high * repeat)
            keys, values = key[:, :high], value[:, :high]
            scores = _product(query[:, rows], keys.transpose(1, 2), factor)
            rule = block_rule(scoring, low, high, repeat, query)
            grad = wide(grad_out[:, rows]) / totals[:, rows]
            # The softmax's gradient needs sum(weight * its gradient) per row, which is grad . out.
            row_dot = (grad * wide(out[:, rows])).sum(-1, keepdim=True)
            narrow = grad.to(query.dtype)
            if rule.temperature is not None:
                # It is a factor of every score of the row, hence of the scores' gradients.
                grad, row_dot = grad * rule.temperature, row_dot * rule.temperature
            grad_scores = torch.bmm(grad.to(query.dtype), values.transpose(1, 2))
            if ctx.compiled:
                weights, _, shift = kernel(fused_weights, True)(scores, masked, rule)
                gradients = kernel(fused_gradients, True)
                grad_scores = gradients(grad_scores, scores, row_dot, shift, masked, rule)
            else:
                weights, capped = weights_of(wide(scores), masked, rule, True)
                grad_scores = score_gradients(grad_scores, row_dot, weights, capped)
            grad_value[:, :high].add_(torch.bmm(weights.to(value.dtype).transpose(1, 2), narrow))
            grad_query[:, rows] = _product(grad_scores, keys, scoring.scale)
            grad_key[:, :high].add_(
                _product(grad_scores.transpose(1, 2), query[:, rows], scoring.scale)
            )
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Per block: first query, end, and the mask of its diagonal, whose rows repeat per head."""
    length, repeat = key.shape[1], query.shape[1] // key.shape[1]
    rows = block_rows(length, key.shape[0] * repeat, repeat, query.device)
    position = torch.arange(min(rows, length), device=query.device)
    above = position[None, :] > position.repeat_interleave(repeat)[:, None]
    for low in range(0, length, rows):
        high = min(low + rows, length)
        size = high - low
        yield low, high, above[: size * repeat, :size]


def causal_attention(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    scoring: Scoring,
    compiled: bool = False,
) -> Tensor:
    """Causal attention [S, B, N*D]; query head n reads group n // (N / G)."""
    length, batch, heads, size = query_SBND.shape
    groups = key_SBGD.shape[2]
    query = query_SBND.view(length, batch, groups, heads // groups, size)
    query = query.permute(1, 2, 0, 3, 4).reshape(batch * groups, -1, size)
    key = key_SBGD.permute(1, 2, 0, 3).reshape(batch * groups, length, size)
    value = value_SBGD.permute(1, 2, 0, 3).reshape(batch * groups, length, size)
    out: Tensor = _BlockedAttention.apply(query, key, value, scoring, compiled)
    out = out.view(batch, groups, length, heads // groups, size).permute(2, 0, 1, 3, 4)
    return out.reshape(length, batch, heads * size)
