"""The command that measures a GPU runs to its end on this machine, with small sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEVICE = Path(__file__).parents[2] / "benchmarks" / "device"


def test_parity_and_speed_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, DEVICE / "measure.py", "--device", "cpu", "--smoke"]
    done = subprocess.run(
        [*command, "--output", tmp_path], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "measure.json").read_text())
    measured = {(row["operation"], row["form"]) for row in report["parity"] if "error" in row}
    assert {("attention", "reference"), ("attention", "blocked"), ("experts", "loop")} <= measured
    assert all(row["passed"] for row in report["parity"] if "passed" in row)
    layers = {row["layer"] for row in report["speed"] if row["tflops"] > 0}
    assert layers == {"ours", "stock megatron-core"}


@pytest.mark.slow
def test_the_whole_command_on_the_cpu(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", DEVICE / "run.sh", "--smoke", "--output", tmp_path],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming from" in (tmp_path / "train.txt").read_text()
    assert list((tmp_path / "run" / "profile").glob("*"))


def test_an_unknown_argument_is_refused() -> None:
    done = subprocess.run(
        ["bash", DEVICE / "run.sh", "--smok"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "unknown argument --smok" in done.stderr
