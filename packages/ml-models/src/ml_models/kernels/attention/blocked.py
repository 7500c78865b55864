"""Causal grouped-query attention with a soft cap, without the S x S scores of all heads.

Shapes: S positions, B batch, N query heads, G groups (key and value heads), R = N / G, D head size.
Per block of queries: scores against the keys up to the block's end, cap * tanh(score / cap), mask,
softmax in fp32 (xAI's model.py:860-876: the cap comes before the mask), product with the values.
Nothing above the diagonal blocks is computed, which halves the arithmetic; the backward pass
recomputes scores from queries and keys, so that a layer keeps its inputs, its output and one
number per query and head: 4 MiB instead of 200 MiB per saved matrix for 12 heads at 2048 tokens.
Every row of scores is complete, so there is no running rescaling and the result is exact.

With a cap c and a temperature up to t no score exceeds b = c * t, so exp(score) needs no shift
while b <= 40: the sum over 2^20 keys stays below 3e23, and a gradient divided by it is far from
fp32's smallest number. Factors go to the small side of a product (queries, gradients of [rows, D]),
never over [rows, keys].
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ml_models.kernels.attention.temperature import largest_temperature, temperatures
from ml_models.kernels.execution import kernel
from ml_models.kernels.precision import wide, wide_dtype
from ml_models.scoring import Scoring

MAX_UNSHIFTED = 40.0
"""Of a score, so that its exp needs no shift."""
BLOCK_SCORES = 1 << 20
"""Scores per block and group: rows are chosen so that a block of them stays in the cache."""


def block_rows(length: int, heads_per_group: int, device: torch.device) -> int:
    """Query positions per block: a power of two from 32 to 128 on a CPU, to 512 elsewhere.

    On a CPU small blocks save the half above the diagonal (at 512 positions 128 rows take 42 ms
    for both passes, 512 rows 63 ms); elsewhere each block costs launches of its kernels.
    """
    rows = 128 if device.type == "cpu" else 512
    while rows > 32 and rows * heads_per_group * length > BLOCK_SCORES:
        rows //= 2
    return rows


def _product(first: Tensor, second: Tensor, factor: float) -> Tensor:
    """factor * first @ second, in the wide dtype."""
    empty = first.new_empty(first.shape[0], first.shape[1], second.shape[2])
    return wide(torch.baddbmm(empty, first, second, beta=0, alpha=factor))


def _factor(scoring: Scoring) -> float:
    """What q.k is multiplied by: with a cap, scores come already divided by it."""
    return scoring.scale if scoring.cap is None else scoring.scale / scoring.cap


class BlockRule(NamedTuple):
    """What a block of queries does with its scores."""

    cap: float | None
    temperature: Tensor | None
    """[rows, 1], wide; None where every factor is 1."""
    shifted: bool
    """Whether the rows' largest score is subtracted before exp."""


def block_rule(scoring: Scoring, low: int, high: int, repeat: int, query: Tensor) -> BlockRule:
    """The rule of the queries from `low` to `high`, whose rows repeat per head."""
    length, temperature, largest = scoring.temperature_length, None, 1.0
    if length is not None and high - 1 > length:
        factors = temperatures(low, high, length, query.device).to(wide_dtype(query.dtype))
        temperature = factors.repeat_interleave(repeat)[:, None]
        largest = largest_temperature(high, length)
    shifted = scoring.cap is None or scoring.cap * largest > MAX_UNSHIFTED
    return BlockRule(scoring.cap, temperature, shifted)


def weights_of(
    scores: Tensor, masked: Tensor, rule: BlockRule, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Unnormalised probabilities [G', rows, keys], tanh(score / cap), and row sums; all in place.

    `scores` are wide and, with a cap, already divided by it. `masked` [rows, diagonal keys] is True
    where a query may not look, over the last keys. Without `keep` the second result is None.
    """
    diagonal = scores.shape[-1] - masked.shape[-1]
    capped, weights = None, scores
    if rule.cap is not None:
        # The cap and the temperature in a single factor: one pass over the scores.
        factor = rule.cap if rule.temperature is None else rule.cap * rule.temperature
        tanh = scores.tanh_()
        capped, weights = (tanh, tanh * factor) if keep else (None, tanh.mul_(factor))
    elif rule.temperature is not None:
        weights = scores.mul_(rule.temperature)
    if rule.shifted:
        weights[..., diagonal:].masked_fill_(masked, float("-inf"))
        weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    else:
        weights.exp_()[..., diagonal:].masked_fill_(masked, 0.0)
    return weights, capped, weights.sum(-1, keepdim=True)


def score_gradients(
    grad: Tensor, row_dot: Tensor, weights: Tensor, capped: Tensor | None
) -> Tensor:
    """Gradients of the scores before the cap, from those of the probabilities.

    The caller applies the attention scale. row_dot [rows, 1]: see backward.
    """
    grad_scores = wide(grad).sub_(row_dot).mul_(weights)
    if capped is not None:
        grad_scores = torch.ops.aten.tanh_backward(grad_scores, capped)
    return grad_scores.to(grad.dtype)


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
        factor = _factor(scoring)
        softmax = kernel(weights_of, compiled)
        for low, high, masked in _blocks(key.shape[1], repeat, query.device):
            # Keys behind the block's last query are never looked at: their scores are not computed.
            rows = slice(low * repeat, high * repeat)
            scores = _product(query[:, rows], key[:, :high].transpose(1, 2), factor)
            rule = block_rule(scoring, low, high, repeat, query)
            weights, _, total = softmax(scores, masked, rule, False)
            block = torch.bmm(weights.to(value.dtype), value[:, :high])
            # The softmax's division comes last: over [rows, D], not over [rows, keys].
            out[:, rows] = block.div_(total)
        ctx.save_for_backward(query, key, value, out)
        ctx.scoring, ctx.compiled = scoring, compiled
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out = ctx.saved_tensors
        scoring: Scoring = ctx.scoring
        factor = _factor(scoring)
        repeat = query.shape[1] // key.shape[1]
        grad_query = torch.empty_like(query)
        softmax = kernel(weights_of, ctx.compiled)
        gradients = kernel(score_gradients, ctx.compiled)
        # Every block of queries adds to the keys before it: in bf16 small terms would be lost.
        grad_key = torch.zeros_like(key, dtype=wide_dtype(key.dtype))
        grad_value = torch.zeros_like(value, dtype=wide_dtype(key.dtype))
        for low, high, masked in _blocks(key.shape[1], repeat, query.device):
            rows = slice(low * repeat, high * repeat)
            keys, values, grad = key[:, :high], value[:, :high], grad_out[:, rows]
            scores = _product(query[:, rows], keys.transpose(1, 2), factor)
            rule = block_rule(scoring, low, high, repeat, query)
            weights, capped, total = softmax(scores, masked, rule, True)
            grad = wide(grad) / total
            # The softmax's gradient needs sum(weight * its gradient) per row, which is grad . out.
            row_dot = (grad * wide(out[:, rows])).sum(-1, keepdim=True)
            narrow = grad.to(query.dtype)
            grad_value[:, :high] += torch.bmm(weights.to(narrow.dtype).transpose(1, 2), narrow)
            if rule.temperature is not None:
                # It is a factor of every score of the row, hence of the scores' gradients.
                narrow = (grad * rule.temperature).to(query.dtype)
                row_dot = row_dot * rule.temperature
            grad_scores = torch.bmm(narrow, values.transpose(1, 2))
            grad_scores = gradients(grad_scores, row_dot, weights, capped)
            grad_query[:, rows] = _product(grad_scores, keys, scoring.scale)
            grad_key[:, :high] += _product(
                grad_scores.transpose(1, 2), query[:, rows], scoring.scale
            )
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _blocks(length: int, repeat: int, device: torch.device) -> Iterator[tuple[int, int, Tensor]]:
    """Per block: first query, end, and the mask of its diagonal, whose rows repeat per head."""
    rows = block_rows(length, repeat, device)
    position = torch.arange(min(rows, length), device=device)
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
