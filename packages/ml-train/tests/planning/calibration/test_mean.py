"""Means over processes."""

from __future__ import annotations

from ml_train.planning.calibration.mean import mean_table


def test_floats_are_averaged_and_everything_else_stays() -> None:
    tables = [
        {"size": 2, "flag": True, "points": [[8.0, 1.0], [9.0, 2.0]]},
        {"size": 2, "flag": True, "points": [[8.0, 3.0], [9.0, 6.0]]},
    ]
    assert mean_table(tables) == {"size": 2, "flag": True, "points": [[8.0, 2.0], [9.0, 4.0]]}
