"""Cross entropy of softly capped logits over a divided vocabulary, without a second logits tensor.

y = cap * tanh(z / cap), loss = log(sum_v exp(y_v)) - y_label, in fp32, or fp64 of fp64 logits.

The output layer's logits z are kept as they are, in their own dtype. Both passes compute y from
them for a few tokens at a time, and the backward pass writes the gradient over z: the capped
logits, the probabilities and the gradient never exist as tensors of their own. 1,024 tokens of
Grok-2's vocabulary in fp32 are 0.5 GiB; a block of them here is 16 MiB.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp, all_reduce

from ml_models.kernels.precision import wide, wide_dtype

BLOCK_LOGITS = 1 << 22
"""Logits in a block: 16 MiB in fp32."""


@dataclass(frozen=True)
class VocabularyPart:
    """The entries of the vocabulary that this tensor-parallel rank has logits for."""

    first: int
    """The rank's first entry."""
    size: int
    """Entries here, without those that pad the vocabulary."""
    group: ProcessGroup
    """The tensor-parallel group."""


class _CappedCrossEntropy(torch.autograd.Function):
    """Over logits [T, V / TP] and labels int64 [T]; losses fp32 [T]."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, cap: float, part: VocabularyPart
    ) -> Tensor:
        tokens = logits.shape[0]
        # Where a rank has padding alone, its sum is 0 below the lowest possible logit.
        largest = torch.full((tokens,), -cap, device=logits.device, dtype=wide_dtype(logits.dtype))
        total, of_label = torch.zeros_like(largest), torch.zeros_like(largest)
        local, here = _local_labels(labels, part, largest.dtype)
        for rows in _blocks(logits) if part.size else ():
            capped = _capped(logits[rows, : part.size], cap)
            largest[rows] = capped.amax(-1)
            of_label[rows] = capped.gather(1, local[rows, None])[:, 0] * here[rows]
            total[rows] = capped.sub_(largest[rows, None]).exp_().sum(-1)
        everyones = largest.clone()
        all_reduce(everyones, op=ReduceOp.MAX, group=part.group)
        total.mul_(torch.exp(largest - everyones))
        all_reduce(total, group=part.group)
        all_reduce(of_label, group=part.group)
        log_total = total.log_().add_(everyones)
        ctx.save_for_backward(logits, local, here, log_total)
        ctx.cap, ctx.part = cap, part
        return log_total - of_label

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, local, here, log_total = ctx.saved_tensors
        # Safe: nobody else reads the logits, and autograd notices a second backward pass by their
        # changed version.
        for rows in _blocks(logits):
            capped = _capped(logits[rows, : ctx.part.size], ctx.cap)
            # d y / d z = 1 - tanh^2, taken before y becomes its probability.
            slope = capped.div(ctx.cap).square_().neg_().add_(1.0)
            probability = capped.sub_(log_total[rows, None]).exp_()
            if ctx.part.size:
                # A column per row: no two meet, so that no order of additions can change a bit.
                row = torch.arange(probability.shape[0], device=logits.device)
                probability[row, local[rows]] -= here[rows]
            gradient = probability.mul_(slope).mul_(grad[rows, None])
            logits[rows, : ctx.part.size] = gradient.to(logits.dtype)
        logits[:, ctx.part.size :] = 0.0
        return logits, None, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Rows of a block at a time."""
    rows = max(1, BLOCK_LOGITS // max(1, logits.shape[1]))
    for start in range(0, logits.shape[0], rows):
        yield slice(start, start + rows)


def _capped(logits: Tensor, cap: float) -> Tensor:
    return wide(logits).div(cap).tanh_().mul_(cap)


def _local_labels(
    labels: Tensor, part: VocabularyPart, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Columns of the labels on this rank, 0 for others', and 1.0 where they are here."""
    local = labels - part.first
    here = (local >= 0) & (local < part.size)
    return local * here, here.to(dtype)


def capped_cross_entropy(
    logits: Tensor, labels: Tensor, *, cap: float, part: VocabularyPart
) -> Tensor:
    """Losses fp32 [S, B] of logits [S, B, V / TP] before their cap, and labels [S, B].

    The backward pass overwrites `logits` with their gradient.
    """
    flat: Tensor = _CappedCrossEntropy.apply(
        logits.view(-1, logits.shape[-1]), labels.reshape(-1), cap, part
    )
    return flat.view_as(labels)
