"""A calibration in processes of its own: its file, an interruption, a failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ml_train.errors import MlTrainError
from ml_train.planning.calibration import device_file, run
from ml_train.planning.target import measured_on, target_device

COMMAND = [sys.executable, "-m", "ml_train.cli", "plan", "--device", "cpu", "--calibrate"]


def test_numbers_of_processes_double_and_end_with_the_largest() -> None:
    assert run.numbers_up_to(1) == [1]
    assert run.numbers_up_to(4) == [1, 2, 4]
    assert run.numbers_up_to(6) == [1, 2, 4, 6]


def test_a_file_of_somebody_else_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    path = tmp_path / "own.toml"
    path.write_text("memory_bytes = 1e9\n")
    with pytest.raises(MlTrainError, match="left alone"):
        run.calibrate(path, platform="cpu", numbers=[1], progress=lambda _: None)


@pytest.mark.slow
def test_a_failed_worker_is_told_and_leaves_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.toml"
    with pytest.raises(MlTrainError, match="with 1 process failed with exit code 2"):
        run.calibrate(path, platform="absent", numbers=[1], progress=lambda _: None)
    assert "No platform is called 'absent'" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_measure_a_device_that_a_plan_takes(tmp_path: Path) -> None:
    path = tmp_path / "here.toml"
    done = subprocess.run(
        [*COMMAND, str(path), "--nproc-per-node", "2"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes: messages" in done.stderr
    assert target_device(str(path)).devices_per_node == 2
    alone, both = measured_on(str(path))
    assert (alone.processes, both.processes) == (1, 2)
    assert not alone.messages and set(both.messages) == {2}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_processes_and_leaves_the_earlier_file(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = tmp_path / "here.toml"
    device_file.write(path, {"memory_bytes": 1e9}, [])
    earlier = path.read_text()
    process = subprocess.Popen(
        [*COMMAND, str(path), "--nproc-per-node", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "matrix products" in line:
            break
    process.send_signal(number)
    assert process.wait(120) == code
    assert path.read_text() == earlier
