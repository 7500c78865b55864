"""The time of a kernel is the longest of its three limits."""

import dataclasses

import pytest
import torch

from ml_models.costs.device import H100
from ml_models.costs.operations import Shape
from ml_models.costs.recorder import Kernel

EMPTY = Kernel(
    name="add",
    kind="other",
    part="layer",
    backward=False,
    dtype=torch.bfloat16,
    moved_bytes=0,
)


def product(rows: int, columns: int, inner: int, dtype: torch.dtype = torch.bfloat16) -> Kernel:
    shape = Shape(1, rows, columns, inner, dtype)
    return dataclasses.replace(EMPTY, kind="product", flops=shape.flops, shape=shape)


def test_limits() -> None:
    assert H100.seconds(EMPTY) == H100.seconds_per_kernel
    moving = dataclasses.replace(EMPTY, moved_bytes=3 * 10**9)
    assert H100.seconds(moving) == pytest.approx(1e-3)


def test_small_products_are_slower_than_large_ones() -> None:
    def rate(kernel: Kernel) -> float:
        return kernel.flops / H100.seconds(kernel)

    large = rate(product(16384, 32768, 16384))
    assert 0.97 * H100.large_product_rate < large < H100.large_product_rate
    # One tile keeps one of 132 multiprocessors busy.
    assert rate(product(128, 256, 1 << 16)) < H100.large_product_rate / 130
    assert rate(product(8192, 8192, 128)) < 0.51 * H100.large_product_rate
    assert rate(product(8192, 8192, 8192, torch.float32)) == pytest.approx(H100.float32_rate)


def test_bound_is_needed_flops_over_time() -> None:
    kernels = [product(8192, 8192, 8192)] * 2
    expected = 1e12 / (H100.peak_flops * 2 * H100.seconds(kernels[0]))
    assert H100.bound(kernels, 1e12) == pytest.approx(expected)
