"""Seconds between and beyond measured sizes."""

from __future__ import annotations

import pytest

from ml_train.planning.calibration.curve import Curve

CURVE = Curve(((10.0, 1.0), (1000.0, 4.0)))


def test_measured_sizes_have_their_measured_seconds() -> None:
    assert [CURVE.seconds(size) for size in (10, 1000)] == pytest.approx([1.0, 4.0])


def test_the_geometric_mean_of_sizes_has_that_of_seconds() -> None:
    assert CURVE.seconds(100) == pytest.approx(2.0)


def test_small_sizes_cost_what_the_smallest_does_and_large_ones_grow_with_the_size() -> None:
    assert CURVE.seconds(0) == CURVE.seconds(3) == 1.0
    assert CURVE.seconds(3000) == pytest.approx(12.0)


def test_a_single_point_serves_every_size() -> None:
    single = Curve(((8.0, 2.0),))
    assert (single.seconds(1), single.seconds(16)) == (2.0, 4.0)
