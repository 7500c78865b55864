"""The loss of capped logits by its formula in fp64, and by ranks that divide the vocabulary."""

import torch
from torch import Tensor

from model_checks.process import layout


def formula(
    logits: Tensor, labels: Tensor, grad: Tensor, cap: float, entries: int
) -> tuple[Tensor, Tensor]:
    """Losses [S, B] and the logits' gradient by plain autograd."""
    leaf = logits.double().clone().requires_grad_()
    capped = cap * torch.tanh(leaf[..., :entries] / cap)
    losses = torch.nn.functional.cross_entropy(
        capped.flatten(0, 1), labels.flatten(), reduction="none"
    ).view_as(labels)
    losses.backward(grad.double())
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


def divided_loss(
    logits: Tensor, labels: Tensor, grad: Tensor, cap: float, entries: int
) -> tuple[Tensor, Tensor]:
    """This rank's losses, and the gradient of its part of the vocabulary."""
    from megatron.core import parallel_state

    from ml_models.layers.capped_cross_entropy import VocabularyPart, capped_cross_entropy

    size = torch.distributed.get_world_size()
    layout(size, 1, 1, 1)
    width = logits.shape[-1] // size
    first = torch.distributed.get_rank() * width
    part = VocabularyPart(
        first,
        min(max(0, entries - first), width),
        parallel_state.get_tensor_model_parallel_group(),
    )
    leaf = logits[..., first : first + width].clone().requires_grad_()
    losses = capped_cross_entropy(leaf * 1.0, labels, cap=cap, part=part)
    losses.backward(grad)
    assert leaf.grad is not None
    return losses.detach(), leaf.grad
