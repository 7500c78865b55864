"""The sequences of one split by their number in the run: megatron-core's datasets over an Order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ml_train.data.index_cache import (
    BlendPiece,
    LegPiece,
    name_of,
    open_blend,
    open_documents,
    open_leg,
)
from ml_train.data.order import Order, Part
from ml_train.data.origin import CoreDataset, TokenSpan, spans_of_sample
from ml_train.errors import DataError


class Sequences(Protocol):
    """Random access to the sequences of a split by their number in the run."""

    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]:
        """tokens, labels, position_ids: int64 [sequence]; loss_mask: float32 [sequence]."""
        ...

    def origin(self, index: int) -> list[TokenSpan]:
        """Documents and token offsets of a sequence."""
        ...


class OrderedSequences:
    """Sequence n of the run, for order.begin <= n < total; later numbers begin again.

    The trainer never takes a sequence beyond `total`; processes that read ahead do.
    """

    def __init__(
        self, order: Order, total: int, cache: Path, *, mmap: bool, masked_id: int | None = None
    ):
        """Opens pieces that are in the cache. masked_id: left out of the loss. Raises DataError."""
        self._begin, self._count = order.begin, total - order.begin
        self._legs: list[list[CoreDataset]] = []
        self._ends: list[NDArray[np.int64]] = []
        """Of each part, the number of the sequence after each leg."""
        documents = {part.prefix: open_documents(part.prefix, mmap=mmap) for part in order.parts}
        for part in order.parts:
            legs = []
            for leg in part.legs:
                piece = LegPiece.of(part, leg)
                folder = cache / name_of(piece)
                dataset = open_leg(
                    piece, folder, documents=documents[part.prefix], masked_id=masked_id
                )
                _check_length(part, len(dataset), part.length(leg))
                legs.append(dataset)
            self._legs.append(legs)
            self._ends.append(np.cumsum([len(dataset) for dataset in legs]))
        self._first = [part.begin for part in order.parts]
        self._blend: tuple[NDArray[np.int16], NDArray[np.int64]] | None = None
        if len(order.parts) > 1:
            self._blend = open_blend(BlendPiece(weights=order.weights, samples=self._count), cache)

    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]:
        """megatron-core's dictionary of tensors [sequence]."""
        dataset, number = self._locate(index)
        return dataset[number]

    def origin(self, index: int) -> list[TokenSpan]:
        """Documents and token offsets of a sequence of the run."""
        return spans_of_sample(*self._locate(index))

    def _locate(self, index: int) -> tuple[CoreDataset, int]:
        """The dataset that holds a sequence of the run, and its number there."""
        number = (index - self._begin) % self._count
        part = 0
        if self._blend is not None:
            parts, numbers = self._blend
            part, number = int(parts[number]), int(numbers[number])
        number += self._first[part]
        leg = int(np.searchsorted(self._ends[part], number, side="right"))
        begin = int(self._ends[part][leg - 1]) if leg else 0
        return self._legs[part][leg], number - begin


def _check_length(part: Part, length: int, expected: int) -> None:
    if length != expected:
        raise DataError(
            f"The sample indexes of {part.prefix} hold {length} sequences, but its documents give "
            f"{expected}: delete the index cache and start again."
        )
