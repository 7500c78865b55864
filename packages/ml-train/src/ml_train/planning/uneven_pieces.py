"""Gather and reduce-scatter of unequal pieces, as a device's collectives do them.

Expert tensor parallelism exchanges as many rows as each rank has tokens. gloo pads the pieces
(ml_models/platforms/gloo.py). NCCL and HCCL take them as they are. Where the pieces are equal,
torch gathers them in a flat buffer of its own and copies them out (ProcessGroupNCCL.cpp, allgather
and reduce_scatter).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ml_models.platforms.patch import Patch


def _gather(piece: Tensor, group: ProcessGroup, sizes: Sequence[int]) -> Tensor:
    sizes = [int(size) for size in sizes]
    gathered = piece.new_empty((sum(sizes), *piece.shape[1:]))
    flat = _flat_buffer(gathered, sizes)
    dist.all_gather(list(gathered.split(sizes)), piece, group=group)
    del flat
    return gathered


def _reduce_scatter(full: Tensor, group: ProcessGroup, sizes: Sequence[int]) -> Tensor:
    sizes = [int(size) for size in sizes]
    piece = full.new_empty((sizes[dist.get_rank(group)], *full.shape[1:]))
    flat = _flat_buffer(full, sizes)
    dist.reduce_scatter(piece, list(full.split(sizes)), group=group)
    del flat
    return piece


def _flat_buffer(full: Tensor, sizes: Sequence[int]) -> Tensor | None:
    return torch.empty_like(full) if len(set(sizes)) == 1 else None


ON_DEVICE = (
    Patch(
        target="ml_models.platforms.cpu_core:gather_uneven",
        make=lambda _: _gather,
        reason="a device's collectives need no padding",
    ),
    Patch(
        target="ml_models.platforms.cpu_core:reduce_scatter_uneven",
        make=lambda _: _reduce_scatter,
        reason="a device's collectives need no padding",
    ),
)
