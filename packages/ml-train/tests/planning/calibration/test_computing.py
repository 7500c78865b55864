"""Measurements in a world of this process alone. No test looks at how long something takes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from round_device import measured
from torch._C._distributed_c10d import HashStore

from ml_models.platforms.cpu import CpuPlatform
from ml_train.planning.calibration import computing, messages, timing
from ml_train.planning.calibration.measured import from_table, to_table
from ml_train.planning.calibration.operations import KINDS
from ml_train.planning.calibration.timing import Stopwatch

CPU = torch.device("cpu")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stopwatch]:
    monkeypatch.setattr(timing, "_WINDOW_SECONDS", 1e-4)
    monkeypatch.setattr(computing, "_MOST_SIZES", 2)
    monkeypatch.setattr(computing, "_LONGEST_SECONDS", math.inf)
    monkeypatch.setattr(computing, "_OPERATION_BYTES", (4096, 32768))
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield Stopwatch(CpuPlatform())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", computing.DTYPES)
def test_all_figures_of_a_dtype_are_positive(watch: Stopwatch, dtype: torch.dtype) -> None:
    single, batched = computing.measure_products(watch, CPU, dtype)
    assert (single.batch, single.sizes) == (1, (16, 64))
    assert (batched.batch, batched.sizes) == (computing.BATCH, (16,))
    assert all(0 < seconds < math.inf for seconds in (*single.seconds, *batched.seconds))
    curves = computing.measure_operations(watch, CPU, dtype)
    assert set(curves) == set(KINDS)
    for curve in curves.values():
        sizes = [size for size, _ in curve.points]
        assert sizes == sorted(sizes) and len(sizes) == 2
        assert all(0 < seconds < math.inf for _, seconds in curve.points)
    figures = measured(1, products={"float32": single}, operations={"float32": curves})
    assert from_table(to_table(figures), "measured") == figures


def test_a_cpu_computes_while_its_host_waits(watch: Stopwatch) -> None:
    assert not computing.is_asynchronous(watch, CPU)


def test_an_action_is_repeated_until_a_window_is_full(watch: Stopwatch) -> None:
    calls = 0

    def action() -> None:
        nonlocal calls
        calls += 1

    assert 0 <= watch.seconds(action) < 1
    assert calls > 10


def test_a_process_alone_sends_no_messages(watch: Stopwatch) -> None:
    assert messages.measure_messages(watch, CPU) == {}
