"""Attention temperature in every form: against the formula in fp64, forward and backward."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from ml_models.kernels.attention import block_scores, blocked
from ml_models.kernels.attention.functions import CAUSAL_ATTENTION
from ml_models.kernels.attention.reference import masked_attention
from ml_models.kernels.attention.temperature import largest_temperature, temperatures
from ml_models.scoring import Scoring

CPU = torch.device("cpu")
CAPPED = Scoring(scale=0.7, cap=6.0, temperature_length=8)
RULES = {
    "capped": CAPPED,
    "no-cap": Scoring(scale=0.7, temperature_length=8),
    # 30 * log2(149) / log2(2) is 216: exp of such a score needs a shift.
    "far-above": Scoring(scale=4.0, cap=30.0, temperature_length=2),
}
FORMS = ("reference", "blocked")


def inputs(length: int, seed: int = 5) -> tuple[Tensor, ...]:
    """Query [S, 2, 4, 8], key and value [S, 2, 2, 8] and the output's gradient."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((length, 2, 4, 8), (length, 2, 2, 8), (length, 2, 2, 8), (length, 2, 32))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def formula(query: Tensor, key: Tensor, value: Tensor, rule: Scoring) -> Tensor:
    """Position by position in fp64, as a single query that sees the keys before it."""
    rows = []
    for position in range(query.shape[0]):
        keys = key[: position + 1].repeat_interleave(2, dim=2)
        values = value[: position + 1].repeat_interleave(2, dim=2)
        scores = torch.einsum("bnd,tbnd->bnt", query[position], keys) * rule.scale
        if rule.cap is not None:
            scores = rule.cap * torch.tanh(scores / rule.cap)
        length = rule.temperature_length
        if length is not None and position > length:
            scores = scores * (math.log2(position) / math.log2(length))
        rows.append(torch.einsum("bnt,tbnd->bnd", scores.softmax(-1), values).flatten(1))
    return torch.stack(rows)


@cache
def expected_of(rule: str) -> tuple[Tensor, ...]:
    """The formula's output and gradients of query, key and value for inputs(150)."""
    *parts, grad = inputs(150)
    exact = [part.double().requires_grad_() for part in parts]
    output = formula(*exact, RULES[rule])
    output.backward(grad.double())
    return output.detach(), *(part.grad for part in exact)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", FORMS)
def test_output_and_gradients(form: str, rule: str) -> None:
    """150 positions are two blocks of queries."""
    query, key, value, grad = inputs(150)
    assert blocked.block_rows(150, 8, 2, CPU) < 150
    expected, *gradients = expected_of(rule)
    leaves = [part.requires_grad_() for part in (query, key, value)]
    output = CAUSAL_ATTENTION[form](*leaves, RULES[rule], False)
    output.backward(grad)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=2e-5)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert (leaf.grad - gradient).norm() < 2e-5 * gradient.norm()


def test_the_form_for_any_mask_counts_from_the_end_of_the_keys() -> None:
    """As a cache needs: the last queries alone give the last rows."""
    query, key, value, _ = inputs(20)
    whole = formula(query, key, value, CAPPED)
    hidden = torch.ones(3, 20, dtype=torch.bool).triu(18)[None, None]
    last = masked_attention(query[17:], key, value, hidden, CAPPED)
    torch.testing.assert_close(last, whole[17:], rtol=0, atol=1e-5)


def test_early_positions_are_as_without_a_temperature() -> None:
    query, key, value, _ = inputs(30)
    plain = CAUSAL_ATTENTION["blocked"](
        query, key, value, replace(CAPPED, temperature_length=None), False
    )
    warm = CAUSAL_ATTENTION["blocked"](query, key, value, CAPPED, False)
    torch.testing.assert_close(warm[:9], plain[:9], rtol=0, atol=1e-6)
    assert (warm[9:] - plain[9:]).abs().amax(dim=(1, 2)).min() > 1e-4
    rule = block_scores.block_rule(CAPPED, 0, 9, 2, torch.zeros(1))
    assert rule.temperature is None and not rule.shifted


def test_factors() -> None:
    factors = temperatures(0, 131072, 1024, CPU)
    assert (factors[:1025] == 1).all()
    assert factors[2048].item() == pytest.approx(1.1) and factors[65536].item() == pytest.approx(
        1.6
    )
    assert (factors[1025:].diff() >= 0).all() and factors[1025] > 1
    assert factors.max().item() == pytest.approx(largest_temperature(131072, 1024), rel=1e-6)
    assert largest_temperature(5, 1024) == 1.0


def test_scores_are_shifted_only_where_exp_needs_it() -> None:
    """30 * log2(p) / 10 passes 40 near position 10,321."""
    rule = Scoring(scale=1.0, cap=30.0, temperature_length=1024)
    assert not block_scores.block_rule(rule, 10000, 10128, 1, torch.zeros(1)).shifted
    assert block_scores.block_rule(rule, 10400, 10528, 1, torch.zeros(1)).shifted
