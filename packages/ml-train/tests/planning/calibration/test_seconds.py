"""Seconds of kernels on a device with round figures."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from round_device import BYTES_PER_SECOND, FLOPS_PER_SECOND, measured

from ml_models.costs.recorder import Recorder
from ml_train.planning.calibration.seconds import computing_seconds, kernel_seconds


def record() -> Recorder:
    recorder = Recorder()
    with recorder:
        torch.ones(64, 32) @ torch.ones(32, 16)
        torch.ones(4, 8, 8).bmm(torch.ones(4, 8, 8))
        torch.ones(1000) * 2
    return recorder


def test_products_take_their_flops_and_the_rest_its_bytes() -> None:
    seconds = {kernel.name: kernel_seconds(kernel, measured()) for kernel in record().kernels}
    assert seconds["mm"] == pytest.approx(2 * 64 * 32 * 16 / FLOPS_PER_SECOND)
    assert seconds["bmm"] == pytest.approx(2 * 4 * 8**3 / FLOPS_PER_SECOND)
    assert seconds["mul"] == pytest.approx(2 * 4000 / BYTES_PER_SECOND)


def test_products_of_another_dtype_have_its_rate() -> None:
    recorder = Recorder()
    with recorder:
        torch.ones(64, 32, dtype=torch.bfloat16) @ torch.ones(32, 16, dtype=torch.bfloat16)
    kernel = recorder.kernels[-1]
    assert kernel_seconds(kernel, measured()) == pytest.approx(
        2 * 64 * 32 * 16 / (FLOPS_PER_SECOND / 2)
    )


def test_a_host_that_goes_on_hides_the_shorter_part() -> None:
    kernels = record().kernels
    plain = measured(host_seconds_per_kernel=1.0)
    device = sum(kernel_seconds(kernel, plain) for kernel in kernels)
    assert computing_seconds(kernels, plain) == pytest.approx(device + len(kernels))
    ahead = dataclasses.replace(plain, asynchronous=True)
    assert computing_seconds(kernels, ahead) == pytest.approx(len(kernels))
    slow = dataclasses.replace(ahead, host_seconds_per_kernel=0.0)
    assert computing_seconds(kernels, slow) == pytest.approx(device)
    cold = dataclasses.replace(slow, in_step_factor=1.5)
    assert computing_seconds(kernels, cold) == pytest.approx(1.5 * device)
