"""From a block's scores to probabilities, and from their gradients to those of the scores.

Two pairs of functions compute the same. `weights_of` and `score_gradients` work in place on wide
scores, operation by operation: the least memory without a compiler. `fused_weights` and
`fused_gradients` are for torch.compile, which makes a kernel of each: it reads scores of a half
type and writes the result in that type, and widens only what is in registers.

With a cap c and a temperature up to t no score exceeds b = c * t, so exp(score) needs no shift
while b <= 40: the sum over 2^20 keys stays below 3e23, and a gradient divided by it is far from
fp32's smallest number.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ml_models.kernels.attention.temperature import largest_temperature, temperatures
from ml_models.kernels.precision import wide, wide_dtype
from ml_models.scoring import Scoring

MAX_UNSHIFTED = 40.0
"""Of a score, so that its exp needs no shift."""


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
) -> tuple[Tensor, Tensor | None]:
    """Unnormalised probabilities [G', rows, keys] and tanh(score / cap); in place.

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
    return weights, capped


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


def fused_weights(
    scores: Tensor, masked: Tensor, rule: BlockRule
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Unnormalised probabilities [G', rows, keys] in scores' dtype, row sums, and the rows' shift.

    Arguments as for weights_of, scores of any dtype. Sums and shift are wide; the shift is None
    where the rule needs none.
    """
    logits, _ = _logits(scores, rule)
    hidden, shift = _hidden(scores, masked), None
    if rule.shifted:
        shift = logits.masked_fill(hidden, float("-inf")).amax(-1, keepdim=True)
        logits = logits - shift
    weights = logits.exp().masked_fill(hidden, 0.0)
    return weights.to(scores.dtype), weights.sum(-1, keepdim=True), shift


def fused_gradients(
    grad: Tensor,
    scores: Tensor,
    row_dot: Tensor,
    shift: Tensor | None,
    masked: Tensor,
    rule: BlockRule,
) -> Tensor:
    """score_gradients from the scores themselves: probabilities are computed again."""
    logits, tanh = _logits(scores, rule)
    if shift is not None:
        logits = logits - shift
    weights = logits.exp().masked_fill(_hidden(scores, masked), 0.0)
    grad_scores = (wide(grad) - row_dot) * weights
    if tanh is not None:
        grad_scores = grad_scores * (1 - tanh * tanh)
    return grad_scores.to(grad.dtype)


def _logits(scores: Tensor, rule: BlockRule) -> tuple[Tensor, Tensor | None]:
    """What exp is taken of, wide, and tanh(score / cap)."""
    logits, tanh = wide(scores), None
    if rule.cap is not None:
        tanh = torch.tanh(logits)
        logits = tanh * rule.cap
    return logits if rule.temperature is None else logits * rule.temperature, tanh


def _hidden(scores: Tensor, masked: Tensor) -> Tensor:
    """`masked` over all keys; a compiled kernel pads it in registers."""
    return torch.nn.functional.pad(masked, (scores.shape[-1] - masked.shape[-1], 0))
