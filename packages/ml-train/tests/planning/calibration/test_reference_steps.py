"""What a kernel takes in a step: the arithmetic on round figures, and steps of this machine."""

from __future__ import annotations

import dataclasses

import pytest
from round_device import measured

from ml_models.platforms.cpu import CpuPlatform
from ml_train.planning.calibration import reference_steps
from ml_train.planning.calibration.curve import Curve
from ml_train.planning.calibration.operations import KINDS
from ml_train.planning.calibration.reference_steps import ReferenceStep, step_figures

HOST, FACTOR = 1e-5, 1.5
SMALL = ReferenceStep(HOST * 100 + FACTOR * 1e-4, 100, 1e-4)
LARGE = ReferenceStep(HOST * 150 + FACTOR * 2e-1, 150, 2e-1)


def test_both_figures_come_back_from_steps_that_they_made() -> None:
    assert step_figures(SMALL, LARGE, asynchronous=False) == pytest.approx((HOST, FACTOR))


def test_figures_that_scatter_stay_possible() -> None:
    fast = dataclasses.replace(LARGE, seconds=0.1)
    assert step_figures(SMALL, fast, asynchronous=False)[1] == 1
    empty = dataclasses.replace(SMALL, seconds=1e-5)
    assert step_figures(empty, LARGE, asynchronous=False)[0] == 0


def test_a_device_that_computes_meanwhile_hides_the_host() -> None:
    small = ReferenceStep(1e-3, 100, 1e-5)
    large = ReferenceStep(0.3, 150, 0.2)
    assert step_figures(small, large, asynchronous=True) == pytest.approx((1e-5, 1.5))


def test_steps_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_steps, "_STEPS", 1)
    monkeypatch.setattr(reference_steps, "_UNTIMED_STEPS", 1)
    monkeypatch.setattr(reference_steps, "LARGE_RUN", reference_steps.SMALL_RUN)
    platform = CpuPlatform()
    platform.apply()
    free = reference_steps.with_step_figures(measured(1, asynchronous=True), platform)
    assert 0 < free.host_seconds_per_kernel < 1
    # Where kernels take all of a step, nothing is left to the host.
    slow = {kind: Curve(((1.0, 1.0),)) for kind in KINDS}
    taken = reference_steps.with_step_figures(
        measured(1, asynchronous=True, operations={"float32": slow}), platform
    )
    assert taken.in_step_factor == 1
