"""Gather and reduce-scatter of pieces of unequal size. gloo has both for equal pieces only.

Expert tensor parallelism exchanges as many rows as each rank has tokens. Every piece is padded
with zero rows to the largest, exchanged, and cut again; with P ranks that moves at most P times
the largest piece, where the unequal operation would move the sum.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup


def gather_uneven(piece: torch.Tensor, group: ProcessGroup, sizes: Sequence[int]) -> torch.Tensor:
    """Concatenate the ranks' pieces along the first axis; rank i's has sizes[i] rows."""
    sizes = [int(size) for size in sizes]
    rows = max(sizes)
    shape = piece.shape[1:]
    if rows == 0:  # No rank has a row, so all ranks leave here and none waits.
        return piece.new_empty((0, *shape))
    padded = piece.new_zeros((rows, *shape))
    padded[: piece.shape[0]] = piece
    gathered = piece.new_empty((rows * len(sizes), *shape))
    dist.all_gather_into_tensor(gathered, padded, group=group)
    parts = gathered.split(rows)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def reduce_scatter_uneven(
    full: torch.Tensor, group: ProcessGroup, sizes: Sequence[int]
) -> torch.Tensor:
    """Sum `full` over the ranks; rank i keeps the sizes[i] rows that are its own."""
    sizes = [int(size) for size in sizes]
    rows = max(sizes)
    shape = full.shape[1:]
    if rows == 0:
        return full.new_empty((0, *shape))
    padded = full.new_zeros((rows * len(sizes), *shape))
    for block, part in zip(padded.split(rows), full.split(sizes), strict=True):
        block[: part.shape[0]] = part
    piece = full.new_empty((rows, *shape))
    dist.reduce_scatter_tensor(piece, padded, group=group)
    return piece[: sizes[dist.get_rank(group)]].contiguous()
