"""Boxes: blocks of a tensor, as a range of indices on each axis. No torch is imported here."""

from collections.abc import Iterator
from itertools import product

Range = tuple[int, int]
"""(first index, index after the last)."""
Shape = tuple[int, ...]


class Box(tuple[Range, ...]):
    """A block of a tensor: one range per axis.

    A box is a tuple, so that the journal of a conversion keeps it as plain JSON.
    """

    __slots__ = ()

    @classmethod
    def of(cls, *ranges: Range) -> "Box":
        """The box with these ranges."""
        return cls(ranges)

    @classmethod
    def whole(cls, shape: Shape) -> "Box":
        """All of a tensor."""
        return cls((0, size) for size in shape)

    @property
    def shape(self) -> Shape:
        """Sizes of the block."""
        return tuple(stop - start for start, stop in self)

    @property
    def starts(self) -> Shape:
        """The first index on each axis."""
        return tuple(start for start, _ in self)

    @property
    def stops(self) -> Shape:
        """The index after the last on each axis."""
        return tuple(stop for _, stop in self)

    @property
    def volume(self) -> int:
        """Elements of the block."""
        return volume(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """What indexes a tensor or an array."""
        return tuple(slice(start, stop) for start, stop in self)

    def behind(self, *ranges: Range) -> "Box":
        """The same block of a tensor with more axes in front."""
        return Box((*ranges, *self))

    def with_range(self, axis: int, limits: Range) -> "Box":
        """The box with another range on one axis."""
        ranges = list(self)
        ranges[axis] = limits
        return Box(ranges)

    def transposed(self) -> "Box":
        """The box after the last two axes were exchanged."""
        return Box((*self[:-2], self[-1], self[-2]))

    def intersection(self, other: "Box") -> "Box | None":
        """What two boxes of one tensor share; None for nothing."""
        shared = Box(
            (max(start, first), min(stop, last))
            for (start, stop), (first, last) in zip(self, other, strict=True)
        )
        return shared if all(start < stop for start, stop in shared) else None

    def within(self, outer: "Box") -> "Box":
        """This box in indices of the block `outer`, which holds it."""
        return Box(
            (start - base, stop - base)
            for (start, stop), base in zip(self, outer.starts, strict=True)
        )

    def moved(self, offsets: Shape) -> "Box":
        """This box with `offsets` added on each axis."""
        return Box(
            (start + offset, stop + offset)
            for (start, stop), offset in zip(self, offsets, strict=True)
        )


def volume(shape: Shape) -> int:
    """Elements of a tensor."""
    total = 1
    for size in shape:
        total *= size
    return total


def matrices(shape: Shape) -> Iterator[Box]:
    """Boxes of at most two axes that cover a tensor: the leading axes one index at a time."""
    lead, matrix = shape[:-2], Box.whole(shape[-2:])
    for index in product(*(range(size) for size in lead)):
        yield matrix.behind(*((at, at + 1) for at in index))


def row_bands(shape: Shape, rows: int) -> Iterator[Box]:
    """A tensor in boxes of `rows` indices of its first axis; one box for a single number."""
    if not shape:
        yield Box()
        return
    rest = Box.whole(shape[1:])
    for start in range(0, shape[0], max(1, rows)):
        yield rest.behind((start, min(start + rows, shape[0])))


def chunk_boxes(shape: Shape, itemsize: int, chunk_bytes: int) -> Iterator[Box]:
    """A tensor in row-major boxes of at most about `chunk_bytes`, a box within one matrix.

    `itemsize`: bytes of an element. A row is never divided.
    """
    # Two axes at most, as pieces of weight maps have: a chunk then lies inside one piece, or few.
    lead, matrix = shape[:-2], shape[-2:]
    row_bytes = volume(matrix[1:]) * itemsize
    rows = max(1, chunk_bytes // max(1, row_bytes))
    for index in product(*(range(size) for size in lead)):
        for band in row_bands(matrix, rows):
            yield band.behind(*((at, at + 1) for at in index))
