"""Batches in one global order that does not depend on the number of data-parallel ranks.

Sample i of the order belongs to global batch i // global_batch_size. Inside it, slices of
micro_batch_size go to the ranks in turn, so the same sequences make up the same global batch
(and, at equal micro batch size, the same micro batches) for any number of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from ml_train.data.origin import check_batch
from ml_train.data.sequences import Sequences

Batch = dict[str, torch.Tensor]
"""tokens, labels, position_ids: int64; loss_mask: float32; all [micro_batch, sequence]."""

_KEYS = ("tokens", "labels", "loss_mask", "position_ids")


@dataclass(frozen=True, kw_only=True)
class RankShare:
    """The part of each global batch that a data-parallel rank takes."""

    micro_batch_size: int
    dp_rank: int
    dp_size: int


class GlobalOrder:
    """Yields lists of sample numbers, one list per micro batch of a rank, without end."""

    def __init__(self, share: RankShare, *, consumed: int):
        """consumed: samples that all ranks together have taken."""
        self._share = share
        self._first = consumed + share.dp_rank * share.micro_batch_size

    def __iter__(self) -> Iterator[list[int]]:
        start, size = self._first, self._share.micro_batch_size
        while True:
            yield list(range(start, start + size))
            start += size * self._share.dp_size


class _Samples(torch.utils.data.Dataset[Batch]):
    """A dataset reduced to the tensors that a step reads."""

    def __init__(self, dataset: Sequences):
        self._dataset = dataset

    def __getitem__(self, index: int) -> Batch:
        sample = self._dataset[index]
        return {key: sample[key] for key in _KEYS}


class SampleStream:
    """Endless micro batches of one split for this rank, from any position of the global order."""

    def __init__(
        self,
        dataset: Sequences,
        share: RankShare,
        *,
        consumed: int,
        num_workers: int,
        vocab_size: int | None = None,
    ):
        """vocab_size: ids at or above it are an error; None checks nothing."""
        self.dataset = dataset
        """Samples by their number in the run."""
        self._num_workers = num_workers
        self._vocab_size = vocab_size
        self._share = share
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
        order = GlobalOrder(self._share, consumed=consumed)
        loader: torch.utils.data.DataLoader[Batch] = torch.utils.data.DataLoader(
            _Samples(self.dataset),
            batch_sampler=order,  # type: ignore[arg-type]
            num_workers=self._num_workers,
            # The loader draws a base seed. A generator of its own keeps the global state unmoved.
            generator=torch.Generator().manual_seed(0),
            # A forked process would inherit threads of torch and the device's state.
            multiprocessing_context="spawn" if self._num_workers else None,
            persistent_workers=self._num_workers > 0,
        )
        self._batches, self._numbers = iter(loader), iter(order)

    def numbers(self, consumed: int, num_microbatches: int) -> list[list[int]]:
        """Numbers in the run of this rank's samples, per micro batch, from a position on."""
        return list(islice(GlobalOrder(self._share, consumed=consumed), num_microbatches))
