"""Boxes against numpy: what they select, share, carry over and put together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_models.weights.blocks import NotCoveredError, assemble, read_ahead
from ml_models.weights.boxes import Box, chunk_boxes, matrices, row_bands, volume
from ml_models.weights.maps import Piece

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    """A block of a tensor that is not empty."""
    ranges = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        ranges.append((start, draw(st.integers(start + 1, size))))
    return Box(ranges)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_sharing_and_moving(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    numbers = np.arange(volume(shape)).reshape(shape)
    first, second = data.draw(boxes(shape)), data.draw(boxes(shape))
    block = numbers[first.slices]
    assert block.shape == first.shape and block.size == first.volume
    shared = first.intersection(second)
    expected = np.intersect1d(block, numbers[second.slices])
    if shared is None:
        assert expected.size == 0
        return
    assert np.array_equal(numbers[shared.slices].ravel(), expected)
    inner = shared.within(first)
    assert np.array_equal(block[inner.slices], numbers[shared.slices])
    assert inner.moved(first.starts) == shared
    assert second.intersection(first) == shared


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.integers(1, 40), st.integers(1, 4))
def test_divisions_cover_a_tensor_once_in_order(
    shape: tuple[int, ...], chunk_bytes: int, rows: int
) -> None:
    numbers = np.arange(volume(shape)).reshape(shape)
    for division in (chunk_boxes(shape, 4, chunk_bytes), matrices(shape), row_bands(shape, rows)):
        parts = [numbers[box.slices].ravel() for box in division]
        assert np.array_equal(np.concatenate(parts), numbers.ravel())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_block_put_together(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    numbers = torch.arange(volume(shape), dtype=torch.float32).reshape(shape)
    box = data.draw(boxes(shape))
    parts = []
    for band in row_bands(shape, data.draw(st.integers(1, 3))):
        shared = band.intersection(box)
        if shared is not None:
            parts.append((shared, numbers[shared.slices]))
    assert torch.equal(assemble(box, parts), numbers[box.slices])
    if len(parts) > 1:
        with pytest.raises(NotCoveredError):
            assemble(box, parts[1:])


def test_a_piece_carries_blocks_both_ways() -> None:
    parameter = np.arange(3 * 2 * 4 * 5).reshape(3, 2, 4, 5)
    tensor = np.zeros((3, 5, 4), dtype=int)
    tensor[1] = parameter[1, 0].T
    piece = Piece(
        "p", Box(((1, 2), (0, 1), (0, 4), (0, 5))), "t", Box(((1, 2), (0, 5), (0, 4))), True
    )
    box = Box(((1, 2), (0, 1), (1, 3), (2, 5)))
    carried = piece.to_tensor(box)
    assert np.array_equal(tensor[carried.slices][0].T, parameter[box.slices][0, 0])
    assert piece.to_parameter(carried) == box


def test_reading_ahead_keeps_the_order_and_the_error() -> None:
    order = list(row_bands((5,), 1))
    blocks = list(read_ahead(lambda box: torch.tensor(box.starts), order))
    assert [(box, int(block)) for box, block in blocks] == [(box, box.starts[0]) for box in order]

    def fail(box: Box) -> torch.Tensor:
        raise OSError(f"at {box}")

    with pytest.raises(OSError, match="at "):
        list(read_ahead(fail, order))
