"""Blocks of tensors: put together from parts in several places, and read ahead of their use."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ml_models.errors import WeightError
from ml_models.weights.boxes import Box


class NotCoveredError(WeightError):
    """The parts of a block do not cover it exactly once. Callers add what was read."""

    def __init__(self, box: Box, filled: int) -> None:
        super().__init__(f"only {filled} elements of {tuple(box)} are filled")
        self.filled = filled


def assemble(
    box: Box, parts: Iterable[tuple[Box, Tensor]], dtype: torch.dtype | None = None
) -> Tensor:
    """The block `box` of a tensor, from boxes inside it with their numbers.

    A part that is the whole block is returned as it is, without a copy, and no further part is
    read. `dtype` is that of a block of several parts; None takes the first part's. Raises
    NotCoveredError.
    """
    block: Tensor | None = None
    filled = 0
    for part_box, part in parts:
        if part_box == box:
            return part
        if block is None:
            block = torch.empty(box.shape, dtype=dtype or part.dtype)
        block[part_box.within(box).slices] = part
        filled += part.numel()
    if block is None or filled != block.numel():
        raise NotCoveredError(box, filled)
    return block


def read_ahead(read: Callable[[Box], Tensor], boxes: Iterable[Box]) -> Iterator[tuple[Box, Tensor]]:
    """Each box with its block; the next block is read while the caller works on this one."""
    # One block ahead: reading and writing overlap, and two blocks are in memory at most.
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[Box, Future[Tensor]] | None = None
        for box in boxes:
            following = (box, pool.submit(read, box))
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()
