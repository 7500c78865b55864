"""Seconds of a matrix product of any size, from a grid of measured ones."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProductGrid:
    """Measured products [rows, inner] @ [inner, columns] of a dtype, in each pair of a batch."""

    batch: int
    """Products of a call: 1 for mm, more for bmm."""
    sizes: tuple[int, ...]
    """Values that rows, columns and inner take, rising."""
    seconds: tuple[float, ...]
    """Of the whole call. Rows change slowest, then columns, then inner."""

    def of_product(self, batch: int, rows: int, columns: int, inner: int) -> float:
        """Seconds of such a call: its FLOPs at the rate of the grid's neighbours.

        Logarithms of rates are interpolated over logarithms of sizes. Outside of the grid the rate
        is that of its edge. No call is shorter than the grid's shortest.
        """
        sides = [self._neighbours(size) for size in (rows, columns, inner)]
        log_rate = 0.0
        for corner in itertools.product(*sides):
            weight = math.prod(share for _, share in corner)
            if weight:
                log_rate += weight * math.log(self._rate(*(index for index, _ in corner)))
        flops = product_flops(batch, rows, columns, inner)
        return max(flops / math.exp(log_rate), min(self.seconds))

    @property
    def best_rate(self) -> float:
        """FLOPs per second of the fastest measured product."""
        indices = range(len(self.sizes))
        return max(self._rate(*corner) for corner in itertools.product(indices, repeat=3))

    def _rate(self, row: int, column: int, inner: int) -> float:
        number = len(self.sizes)
        seconds = self.seconds[(row * number + column) * number + inner]
        sizes = self.sizes[row], self.sizes[column], self.sizes[inner]
        return product_flops(self.batch, *sizes) / seconds

    def _neighbours(self, size: int) -> Sequence[tuple[int, float]]:
        """(index, share) of the measured sizes around a size."""
        right = bisect_right(self.sizes, size)
        if right in (0, len(self.sizes)):
            return [(min(right, len(self.sizes) - 1), 1.0)]
        low, high = self.sizes[right - 1], self.sizes[right]
        share = math.log(size / low) / math.log(high / low)
        return [(right - 1, 1 - share), (right, share)]


def product_flops(batch: int, rows: int, columns: int, inner: int) -> int:
    """A multiplication and an addition for each term."""
    return 2 * batch * rows * columns * inner


def corners(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(rows, columns, inner) of a grid, in the order of ProductGrid.seconds."""
    yield from itertools.product(sizes, repeat=3)
