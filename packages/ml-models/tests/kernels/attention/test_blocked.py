"""The blocked form's block sizes, and its two pairs of functions for scores.

kernels/attention/test_forms.py holds its numbers to the reference.
"""

import pytest
import torch
from torch import Tensor

from ml_models.kernels.attention import blocked
from ml_models.kernels.attention.block_scores import (
    BlockRule,
    fused_gradients,
    fused_weights,
    score_gradients,
    weights_of,
)
from ml_models.kernels.attention.functions import CAUSAL_ATTENTION
from ml_models.kernels.precision import wide
from ml_models.scoring import Scoring

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_device_gets_few_large_blocks() -> None:
    """Full-width Grok-1, a rank of TP4, and lengths at which memory decides."""
    assert blocked.block_rows(8192, 48, 6, GPU) == 512
    assert blocked.block_rows(8192, 12, 6, GPU) == 512
    assert blocked.block_rows(4096, 48, 6, GPU) == 256
    assert blocked.block_rows(512, 12, 3, GPU) == 128
    for length in (8192, 16384, 32768):
        rows = blocked.block_rows(length, 48, 6, GPU)
        assert rows == 128 or rows * 48 * length <= blocked.DEVICE_SCORES
    # The CPU's sizes as they were: blocks that stay in the cache.
    assert [blocked.block_rows(s, 8, 2, CPU) for s in (300, 2048, 8192)] == [128, 128, 64]
    assert blocked.block_rows(8192, 48, 6, CPU) == 32


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("tempered", [False, True])
def test_fused_functions_give_what_those_in_place_give(
    cap: float | None, shifted: bool, tempered: bool
) -> None:
    torch.manual_seed(0)
    rows, keys, size = 12, 10, 6  # 6 positions of 2 heads, the last of 10 keys
    temperature = 1 + torch.rand(rows, 1) if tempered else None
    rule = BlockRule(cap, temperature, shifted or cap is None)
    position = torch.arange(size)
    masked = position[None, :] > position.repeat_interleave(2)[:, None]
    scores, grad = torch.randn(2, rows, keys), torch.randn(2, rows, keys)
    row_dot = torch.randn(2, rows, 1)

    weights, capped = weights_of(scores.clone(), masked, rule, True)
    wanted = score_gradients(grad.clone(), row_dot, weights, capped)
    result, total, shift = fused_weights(scores, masked, rule)
    torch.testing.assert_close(result, weights)
    torch.testing.assert_close(total, weights.sum(-1, keepdim=True))
    torch.testing.assert_close(fused_gradients(grad, scores, row_dot, shift, masked, rule), wanted)
    half, sums, _ = fused_weights(scores.bfloat16(), masked, rule)
    assert (half.dtype, sums.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("scoring", [Scoring(0.3, 2.0), Scoring(0.3), Scoring(0.3, 50.0)])
def test_the_compiled_form_keeps_no_wide_scores(
    scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fused functions as they are, not compiled: the loop around them, and its dtypes."""
    monkeypatch.setattr(blocked, "kernel", lambda function, _: function)
    products: list[tuple[torch.dtype, torch.dtype]] = []

    def bmm(first: Tensor, second: Tensor) -> Tensor:
        products.append((first.dtype, second.dtype))
        return torch.ops.aten.bmm(first, second)

    monkeypatch.setattr(torch, "bmm", bmm)
    torch.manual_seed(1)
    made = [torch.randn(200, 2, heads, 16, dtype=torch.float64) for heads in (6, 2, 2)]
    grad = torch.randn(200, 2, 96, dtype=torch.float64)
    results = {}
    for form, dtype, compiled in (
        ("reference", torch.float64, False),
        ("blocked", torch.float64, True),
        ("blocked", torch.bfloat16, True),
    ):
        products.clear()
        inputs = [tensor.to(dtype).requires_grad_() for tensor in made]
        out = CAUSAL_ATTENTION[form](*inputs, scoring, compiled)
        gradients = torch.autograd.grad(out, inputs, grad.to(dtype))
        results[form, dtype] = [wide(tensor).double() for tensor in (out, *gradients)]
    assert set(products) == {(torch.bfloat16, torch.bfloat16)}
    wanted = results["reference", torch.float64]
    for dtype, limit in ((torch.float64, 1e-12), (torch.bfloat16, 2e-2)):
        for result, exact in zip(results["blocked", dtype], wanted, strict=True):
            assert (result - exact).norm() < limit * exact.norm()
