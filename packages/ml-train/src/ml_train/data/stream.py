"""Batches in one global order that does not depend on the number of data-parallel ranks.

Sample i of the order belongs to global batch i // global_batch_size. Inside it, slices of
micro_batch_size go to the ranks in turn, so the same sequences make up the same global batch
(and, at equal micro batch size, the same micro batches) for any number of ranks.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from ml_train.data.origin import check_batch

Batch = dict[str, torch.Tensor]
"""tokens, labels, position_ids: int64; loss_mask: float32; all [micro_batch, sequence]."""

_KEYS = ("tokens", "labels", "loss_mask", "position_ids")


class GlobalOrder:
    """Yields lists of sample numbers, one list per micro batch of this rank, without end."""

    def __init__(self, *, consumed: int, micro_batch_size: int, dp_rank: int, dp_size: int):
        self._next = consumed + dp_rank * micro_batch_size
        self._micro_batch_size = micro_batch_size
        self._stride = micro_batch_size * dp_size

    def __iter__(self) -> Iterator[list[int]]:
        start = self._next
        while True:
            yield list(range(start, start + self._micro_batch_size))
            start += self._stride


class _Samples(torch.utils.data.Dataset[Batch]):
    """A dataset reduced to the tensors that a step reads."""

    def __init__(self, dataset: Any):
        self._dataset = dataset

    def __getitem__(self, index: int) -> Batch:
        sample = self._dataset[index]
        return {key: sample[key] for key in _KEYS}


class SampleStream:
    """Endless micro batches of one split for this rank, from any position of the global order."""

    def __init__(
        self,
        dataset: Any,
        *,
        num_workers: int,
        consumed: int,
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
        vocab_size: int | None = None,
    ):
        """vocab_size: ids at or above it are an error; None checks nothing."""
        self.dataset = dataset
        """Samples by their number in the run."""
        self._num_workers = num_workers
        self._vocab_size = vocab_size
        self._order = {
            "micro_batch_size": micro_batch_size,
            "dp_rank": dp_rank,
            "dp_size": dp_size,
        }
        self._batches: Iterator[Batch]
        self._numbers: Iterator[list[int]]
        self.seek(consumed)

    def __iter__(self) -> "SampleStream":
        return self

    def __next__(self) -> Batch:
        """Raises DataError for an id outside the vocabulary, in every layout.

        The check is made here and not where processes read ahead, whose errors arrive wrapped in
        a traceback.
        """
        batch, numbers = next(self._batches), next(self._numbers)
        check_batch(
            batch["tokens"],
            batch["labels"],
            dataset=self.dataset,
            numbers=numbers,
            vocab_size=self._vocab_size,
        )
        return batch

    def seek(self, consumed: int) -> None:
        """Go on as if this many samples had been taken, by all ranks together."""
        order = GlobalOrder(consumed=consumed, **self._order)
        loader: torch.utils.data.DataLoader[Batch] = torch.utils.data.DataLoader(
            _Samples(self.dataset),
            batch_sampler=order,  # type: ignore[arg-type]
            num_workers=self._num_workers,
            # An own generator: the loader draws a base seed, which must not move the global state.
            generator=torch.Generator().manual_seed(0),
            multiprocessing_context="spawn" if self._num_workers else None,
            persistent_workers=self._num_workers > 0,
        )
        self._batches, self._numbers = iter(loader), iter(order)

    def numbers(self, consumed: int, num_microbatches: int) -> list[list[int]]:
        """Numbers in the run of this rank's samples, per micro batch, from a position on."""
        return list(islice(GlobalOrder(consumed=consumed, **self._order), num_microbatches))
