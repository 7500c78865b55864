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
    assert ("adam", "torch") in measured
    assert all(row["passed"] for row in report["parity"] if "passed" in row)
    layers = {row["layer"] for row in report["speed"] if row["tflops"] > 0}
    assert layers == {"ours", "stock megatron-core"}


@pytest.mark.slow
@pytest.mark.timeout(960)
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
    assert (tmp_path / "equal.txt").read_text() == "equal to the bit in 4 steps\n"


def test_runs_that_differ_are_told(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    answers = []
    for losses in ((2.5, 2.25), (2.5, 2.5)):
        for folder, last in zip(folders, losses, strict=True):
            folder.mkdir(exist_ok=True)
            rows = [{"kind": "start"}] + [
                {"kind": "report", "iteration": number, "loss": loss, "grad_norm": 1.0}
                for number, loss in ((1, 3.0), (2, last))
            ]
            (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        command = [sys.executable, DEVICE / "equal_runs.py", *folders]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answers.append((done.returncode, done.stdout))
    assert answers[0][0] == 1 and "(2, 2.5, 1.0), (2, 2.25, 1.0)" in answers[0][1]
    assert answers[1] == (0, "equal to the bit in 2 steps\n")


def test_an_unknown_argument_is_refused() -> None:
    done = subprocess.run(
        ["bash", DEVICE / "run.sh", "--smok"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "unknown argument --smok" in done.stderr
