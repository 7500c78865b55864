"""Seconds of an action by its size, from some measured sizes."""

import math
from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """Measured points. Sizes rise, and all numbers are above 0."""

    points: tuple[tuple[float, float], ...]
    """(size, seconds)."""

    def seconds(self, size: float) -> float:
        """Of any size.

        Between two points size and seconds are taken to be powers of each other, as sizes are
        measured in powers. Below the first point an action costs what the first does. Beyond the
        last one its cost grows as the size does.
        """
        sizes = [point[0] for point in self.points]
        right = bisect_left(sizes, size)
        if right == 0:
            return self.points[0][1]
        if right == len(sizes):
            last_size, last_seconds = self.points[-1]
            return last_seconds * size / last_size
        (x0, y0), (x1, y1) = self.points[right - 1 : right + 1]
        share = math.log(size / x0) / math.log(x1 / x0)
        return y0 * (y1 / y0) ** share
