"""A collective on the device that never completes: every rank that waits for it is reported."""

from pathlib import Path

import pytest
from device_runs import train
from tiny_runs import tokens

LAYOUT = (
    *("--tensor-model-parallel-size", 2, "--expert-model-parallel-size", 2),
    *("--expert-tensor-parallel-size", 1),
)
# Recomputation runs the layers' forward pass, which reads counts, in autograd's threads.
RECOMPUTED = ("--recompute-granularity", "full", "--recompute-method", "uniform")
CASES = {"forward": (), "backward": (*RECOMPUTED, "--recompute-num-layers", 1)}


@pytest.mark.parametrize("phase", CASES)
def test_ranks_that_wait_for_their_device_are_reported(tmp_path: Path, phase: str) -> None:
    folder, absent = tmp_path / "run", 3
    reports = folder / "hang_reports"
    timeout = ("--distributed-timeout-minutes", 0.3)
    stuck = [absent, 2, phase, str(reports)]
    words = (*LAYOUT, *CASES[phase], *timeout)
    run = train(folder, tokens(tmp_path), *words, device="npu", processes=4, stuck=stuck)
    assert run.code == 9, run.said
    (report,) = reports.glob("*.txt")
    lines = report.read_text(encoding="utf-8").splitlines()
    assert lines[1] == "No rank is missing. Rank 3 is alive and in no collective.", lines
    for rank in range(3):
        line = next(line for line in lines if line.startswith(f"  rank {rank} "))
        assert "step 2): waits at " in line and " (for its device), for " in line, lines
        assert any(root in line for root in ("megatron/core/", "ml_models/", "ml_train/"))
