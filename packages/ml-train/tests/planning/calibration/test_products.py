"""Seconds of products around a grid of measured ones."""

from __future__ import annotations

import pytest
from round_device import FLOPS_PER_SECOND, grid

from ml_train.planning.calibration.products import ProductGrid, corners, product_flops


@pytest.mark.parametrize("shape", [(1, 64, 32, 16), (6, 5, 7, 2000), (1, 9000, 9000, 9000)])
def test_one_rate_everywhere_gives_the_flops_at_that_rate(shape: tuple[int, ...]) -> None:
    expected = product_flops(*shape) / FLOPS_PER_SECOND
    assert grid().of_product(*shape) == pytest.approx(expected, rel=1e-5)


def test_measured_products_have_their_measured_seconds() -> None:
    sizes = (16, 64, 256)
    seconds = tuple(1e-6 * (1 + index) for index in range(27))
    measured = ProductGrid(batch=1, sizes=sizes, seconds=seconds)
    for corner, expected in zip(corners(sizes), seconds, strict=True):
        assert measured.of_product(1, *corner) == pytest.approx(expected)


def test_outside_of_the_grid_its_edge_counts() -> None:
    measured = ProductGrid(batch=1, sizes=(16, 64), seconds=(1e-5,) * 8)
    assert measured.of_product(1, 1, 1, 1) == 1e-5
    assert measured.of_product(1, 64, 128, 64) == pytest.approx(2e-5)
    assert measured.best_rate == pytest.approx(2 * 64**3 / 1e-5)
