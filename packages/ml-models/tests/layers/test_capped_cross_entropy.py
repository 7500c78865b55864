"""The loss of capped logits: against the plain formula in fp64, divided, padded, and its memory."""

import pytest
import torch
from model_checks.capped_loss import divided_loss, formula
from model_checks.group import Group
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ml_models.layers import capped_cross_entropy as module
from ml_models.layers.capped_cross_entropy import VocabularyPart, capped_cross_entropy

CAP, TOKENS, BATCH, ENTRIES, PADDED = 5.0, 6, 2, 45, 48


def inputs(seed: int = 3, entries: int = PADDED) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [S, B, V], some far above the cap, labels and the losses' gradient [S, B]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(TOKENS, BATCH, entries, generator=generator) * 8
    labels = torch.randint(0, ENTRIES, (TOKENS, BATCH), generator=generator)
    return logits, labels, torch.randn(TOKENS, BATCH, generator=generator)


def whole() -> VocabularyPart:
    from megatron.core import parallel_state

    return VocabularyPart(0, ENTRIES, parallel_state.get_tensor_model_parallel_group())


@pytest.mark.parametrize("block", [1 << 22, 100, 1])
def test_the_formula_in_blocks_of_any_size(
    block: int, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_LOGITS", block)
    logits, labels, grad = inputs()
    leaf = logits.clone().requires_grad_()
    losses = capped_cross_entropy(leaf * 1.0, labels, cap=CAP, part=whole())
    losses.backward(grad)
    expected, gradient = formula(logits, labels, grad, CAP, ENTRIES)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-5, atol=1e-7)
    assert not leaf.grad[..., ENTRIES:].any()


def test_bf16_logits_are_capped_in_fp32(alone: None) -> None:
    logits, labels, grad = inputs()
    logits = logits.bfloat16()
    leaf = logits.clone().requires_grad_()
    losses = capped_cross_entropy(leaf * 1.0, labels, cap=CAP, part=whole())
    losses.backward(grad)
    expected, gradient = formula(logits, labels, grad, CAP, ENTRIES)
    assert losses.dtype == torch.float32 and leaf.grad.dtype == torch.bfloat16
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-2, atol=1e-6)


def test_a_second_backward_pass_is_refused(alone: None) -> None:
    """The first wrote the gradient over the logits."""
    logits, labels, grad = inputs()
    losses = capped_cross_entropy(logits.requires_grad_() * 1.0, labels, cap=CAP, part=whole())
    losses.backward(grad, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.backward(grad)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that an operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        inputs = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        if isinstance(output, Tensor) and output.untyped_storage().data_ptr() not in inputs:
            self.elements = max(self.elements, output.numel())
        return output


def test_no_second_tensor_of_the_logits(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_LOGITS", 4 * PADDED)
    logits, labels, grad = inputs()
    plain = logits.requires_grad_() * 1.0
    with LargestTensor() as forward:
        losses = capped_cross_entropy(plain, labels, cap=CAP, part=whole())
    with LargestTensor() as backward:
        torch.autograd.grad(losses, plain, grad)
    assert 0 < forward.elements <= 4 * PADDED
    assert 0 < backward.elements <= 4 * PADDED


def test_a_divided_vocabulary(group4: Group) -> None:
    """TP 4, whose last part is padding alone: 45 entries in parts of 16."""
    logits, labels, grad = inputs(entries=64)
    parts = group4.run(divided_loss, logits, labels, grad, CAP, ENTRIES)
    expected, gradient = formula(logits, labels, grad, CAP, ENTRIES)
    for losses, _ in parts:
        torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
    together = torch.cat([part for _, part in parts], dim=-1)
    torch.testing.assert_close(together.double(), gradient, rtol=1e-5, atol=1e-7)
