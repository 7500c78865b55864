"""The sequences of one split by their number in the run: megatron-core's datasets over an Order."""

from pathlib import Path
from typing import Any

import numpy as np

from ml_train.data.order import Order, Part
from ml_train.data.origin import parts_of_sample
from ml_train.data.pieces import BlendPiece, LegPiece, name_of, open_blend, open_documents, open_leg
from ml_train.errors import DataError


class OrderedSequences:
    """Sequence n of the run, for order.begin <= n < total; later numbers begin again.

    The trainer never takes a sequence beyond `total`; processes that read ahead do.
    """

    def __init__(
        self,
        order: Order,
        total: int,
        cache: Path,
        *,
        mmap: bool,
        eod_id: int | None,
        eod_mask_loss: bool,
    ):
        """Opens pieces that are in the cache. Raises DataError."""
        self._begin, self._count = order.begin, total - order.begin
        self._parts: list[list[Any]] = []
        self._ends: list[Any] = []
        settings: dict[str, Any] = {"eod_id": -1 if eod_id is None else eod_id}
        settings["eod_mask_loss"] = eod_mask_loss
        documents = {part.prefix: open_documents(part.prefix, mmap=mmap) for part in order.parts}
        for part in order.parts:
            legs = []
            for leg in part.legs:
                piece = LegPiece.of(part, leg)
                folder = cache / name_of(piece)
                legs.append(open_leg(piece, folder, documents=documents[part.prefix], **settings))
                _check_length(part, len(legs[-1]), part.length(leg))
            self._parts.append(legs)
            self._ends.append(np.cumsum([len(leg) for leg in legs]))
        self._first = [part.begin for part in order.parts]
        self._blend: tuple[Any, Any] | None = None
        if len(order.parts) > 1:
            piece_of_blend = BlendPiece(weights=order.weights, samples=self._count)
            self._blend = open_blend(piece_of_blend, cache)

    def __getitem__(self, index: int) -> Any:
        """megatron-core's dictionary of tensors [sequence]."""
        dataset, number = self.locate(index)
        return dataset[number]

    def locate(self, index: int) -> tuple[Any, int]:
        """The GPTDataset that holds a sequence of the run, and its number there."""
        number = (index - self._begin) % self._count
        which = 0
        if self._blend is not None:
            which, number = int(self._blend[0][number]), int(self._blend[1][number])
        number += self._first[which]
        leg = int(np.searchsorted(self._ends[which], number, side="right"))
        begin = int(self._ends[which][leg - 1]) if leg else 0
        return self._parts[which][leg], number - begin

    def origin(self, index: int) -> list[dict[str, Any]]:
        """Documents and token offsets of a sequence of the run."""
        return parts_of_sample(*self.locate(index))


def _check_length(part: Part, length: int, expected: int) -> None:
    if length != expected:
        raise DataError(
            f"The sample indexes of {part.prefix} hold {length} sequences, but its documents give "
            f"{expected}: delete the index cache and start again."
        )
