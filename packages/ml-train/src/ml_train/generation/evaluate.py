"""Loss of a model over token files: each token is predicted once, nothing is drawn at random.

The token stream is cut into windows of the sequence length that overlap by one token, as training
sequences are. A token early in its window sees little context, so the loss depends a little on the
sequence length. The first token of a file is not predicted.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ml_train.data.files import open_token_files
from ml_train.data.origin import check_ids
from ml_train.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Sum over predicted tokens."""

    loss_sum: float
    num_tokens: int

    @property
    def loss(self) -> float:
        """Mean cross entropy per token, nats."""
        return self.loss_sum / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); inf where that is too large for a float."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


def windows(
    tokens: np.ndarray, sequence_length: int, max_tokens: int | None
) -> Iterator[np.ndarray]:
    """Views of sequence_length + 1 tokens until max_tokens are predicted; the last is shorter."""
    last = len(tokens) - 1 if max_tokens is None else min(len(tokens) - 1, max_tokens)
    for start in range(0, last, sequence_length):
        yield tokens[start : min(start + sequence_length, last) + 1]


def evaluate_files(
    losses_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    prefixes: list[str],
    *,
    vocab_size: int,
    sequence_length: int,
    batch_size: int,
    max_tokens: int | None,
) -> dict[str, Evaluation]:
    """prefix -> evaluation. Raises DataError for files that do not fit the model."""
    evaluations = {}
    for prefix in prefixes:
        pieces = windows(open_token_files(prefix).tokens, sequence_length, max_tokens)
        checked = _checked(pieces, prefix, sequence_length, vocab_size)
        evaluations[prefix] = _evaluate(losses_of, checked, prefix=prefix, batch_size=batch_size)
    return evaluations


def _evaluate(
    losses_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    pieces: Iterator[np.ndarray],
    *,
    prefix: str,
    batch_size: int,
) -> Evaluation:
    total, count = 0.0, 0
    for batch in _batches(pieces, batch_size):
        rows = torch.from_numpy(np.stack(batch).astype(np.int64))
        total += float(losses_of(rows[:, :-1], rows[:, 1:]).double().sum())
        count += rows[:, 1:].numel()
    if count == 0:
        raise DataError(f"{prefix} has no token to predict: it holds a single one.")
    return Evaluation(loss_sum=total, num_tokens=count)


def _checked(
    pieces: Iterator[np.ndarray], prefix: str, sequence_length: int, vocab_size: int
) -> Iterator[np.ndarray]:
    for number, piece in enumerate(pieces):
        first = number * sequence_length
        check_ids(piece, prefix=prefix, first_token=first, vocab_size=vocab_size)
        yield piece


def _batches(pieces: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Up to size pieces of equal length."""
    batch: list[np.ndarray] = []
    for piece in pieces:
        if batch and (len(batch) == size or len(piece) != len(batch[0])):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch
