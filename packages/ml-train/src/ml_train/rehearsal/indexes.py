"""How often a run goes through its data, and whether the sample indexes have room."""

from collections.abc import Iterator, Sequence

import numpy as np

from ml_train.data.index_cache import (
    BlendPiece,
    LegPiece,
    Piece,
    cache_directory,
    pieces_of,
    read_stamps,
)
from ml_train.data.order import Leg, Order, Part
from ml_train.data.request import DataRequest
from ml_train.data.selection import SPLITS
from ml_train.data.settle import SettledOrders
from ml_train.planning.report import gigabytes
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.folders import fault_of_folder, free_bytes

SUBJECT = "data"
_HEADER_BYTES = 128
"""Of an .npy file, which numpy pads to a multiple of 64."""


def repetitions(request: DataRequest, orders: Sequence[Order]) -> Iterator[Finding]:
    """A split that is shorter than a batch; validation that begins anew."""
    for name, order, total in zip(SPLITS, orders, request.demand.total, strict=True):
        if not order.parts or not total:
            continue
        sequences = sum(part.num_tokens // part.sequence_length for part in order.parts)
        batch, length = request.global_batch_size, request.sequence_length
        if sequences < batch:
            yield wrong(
                SUBJECT,
                f"The {name} data has {sequences} sequences of {length} tokens, and a step takes "
                f"--global-batch-size {batch}: a batch would hold sequences twice.",
                fix="Give more data, a larger share in --split, or a smaller batch.",
            )
        elif name != "train" and total > sequences:
            yield wrong(
                SUBJECT,
                f"The {name} data has {sequences} sequences of {length} tokens, and the run takes "
                f"{total} of them: it goes through them again.",
                fix="Give it a larger share in --split, or lower --eval-iters.",
                severity="warning",
            )


def room(request: DataRequest, settled: SettledOrders) -> Iterator[Finding]:
    """Whether the index cache can be written and has room for what it lacks."""
    pieces: list[tuple[Piece, int]] = []
    for order, total in zip(settled.orders, request.demand.total, strict=True):
        pieces += sizes_of(order, total)
    if not pieces:
        return
    cache = cache_directory(request.section, settled.first_prefix)
    if read_stamps([piece for piece, _ in pieces], cache) is not None:
        yield sound(SUBJECT, f"the sample indexes are in {cache}")
        return
    needed = sum(size for _, size in pieces)
    fault = fault_of_folder(cache)
    if fault is not None:
        yield wrong(
            SUBJECT,
            f"The sample indexes cannot be written to {cache}: {fault}.",
            fix="Choose another directory with --data-cache-path.",
        )
        return
    free = free_bytes(cache)
    if needed > free:
        yield wrong(
            SUBJECT,
            f"The sample indexes take {gigabytes(needed)}, and {cache} has {gigabytes(free)} left.",
            fix="Make room there, or choose another directory with --data-cache-path.",
        )
        return
    yield sound(SUBJECT, f"the sample indexes will take {gigabytes(needed)} in {cache}")


def sizes_of(order: Order, total: int) -> list[tuple[Piece, int]]:
    """(piece of the index cache, bytes of its arrays) of a split, from numbers alone."""
    legs = {
        LegPiece.of(part, leg): _leg_bytes(part, leg) for part in order.parts for leg in part.legs
    }
    return [
        (piece, legs[piece] if isinstance(piece, LegPiece) else _blend_bytes(piece))
        for piece in pieces_of(order, total)
    ]


def _leg_bytes(part: Part, leg: Leg) -> int:
    """megatron-core's GPTDataset: int32 per document and epoch, two numbers and a uint32 per
    sequence. Positions take int64 where an epoch has too many documents for int32."""
    documents = (part.end - part.first) * part.num_epochs(leg.samples)
    sequences = part.length(leg)
    wide = documents > np.iinfo(np.int32).max
    per_sequence = 2 * (8 if wide else 4)
    arrays = 4 * documents + per_sequence * (sequences + 1) + 4 * sequences
    return arrays + 3 * _HEADER_BYTES


def _blend_bytes(piece: BlendPiece) -> int:
    """int16 and int64 per sequence, see ml_train/data/blend.py."""
    return 10 * piece.samples + 2 * _HEADER_BYTES
