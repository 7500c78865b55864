"""A rank that is stopped or killed: the report, the end within a bound, the elastic restart."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from ports import free_port
from tiny_runs import BATCH, MODEL, tokens

TIMEOUT = 12.0
"""Seconds that a collective may take in these runs; starting up on a busy machine takes less."""


def words(folder: Path, prefix: str, *more: str, steps: int) -> list[str]:
    return [
        *("-m", "ml_train.cli", "pretrain", *MODEL, "--split", "1,0,0", "--data-path", prefix),
        *("--train-iters", str(steps), "--global-batch-size", str(BATCH), "--save", str(folder)),
        *("--load", str(folder), "--distributed-timeout-minutes", str(TIMEOUT / 60), *more),
    ]


def until_step(folder: Path, step: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended too early"
        path = folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        reports = [line for line in lines if '"report"' in line]
        if reports and json.loads(reports[-1])["iteration"] >= step:
            return
        time.sleep(0.05)
    pytest.fail("the run does not get on")


@contextmanager
def ranks(folder: Path, prefix: str, size: int, *more: str) -> Iterator[list[Any]]:
    """Processes without a launcher, so that nothing but the ranks themselves ends them."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    try:
        for rank in range(size):
            environment = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            started.append(
                subprocess.Popen(
                    [sys.executable, *words(folder, prefix, *more, steps=100_000)],
                    env={**os.environ, **address, **environment, "OMP_NUM_THREADS": "1"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait(timeout=10)


def stopped(tmp_path: Path, size: int, victim: int, *more: str) -> dict[int, str]:
    """SIGSTOP one rank; what the others said until they ended, each with exit code 1."""
    folder = tmp_path / "run"
    with ranks(folder, tokens(tmp_path), size, *more) as started:
        until_step(folder, 2, started[0])
        started[victim].send_signal(signal.SIGSTOP)
        since = time.monotonic()
        output = {}
        for rank, process in enumerate(started):
            if rank != victim:
                output[rank] = process.communicate(timeout=60)[0]
                assert process.returncode == 1, output[rank]
        assert time.monotonic() - since < TIMEOUT + 20
        return output


def test_a_stopped_rank_is_named_and_the_others_end(tmp_path: Path) -> None:
    output = stopped(tmp_path, 2, 1)[0]
    assert "ml-train: hang report: rank 0 has waited for" in output
    assert "after 12 s (--distributed-timeout-minutes) it fails" in output
    report = output.partition("ml-train: hang report")[2]
    assert "Rank 1 is missing." in report
    assert ": MISSING, no sign of life any more; was last at" in report
    assert "): waits in " in report and "called at" in report
    assert "(ranks 0, 1): rank 0 waits for rank 1" in report
    assert "ml-train: error: Step " in output and "rank 0 failed in" in output
    written = list((tmp_path / "run" / "hang_reports").iterdir())
    assert len(written) == 1
    assert "Rank 1 is missing." in written[0].read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_stopped_rank_0_takes_the_store_with_it(tmp_path: Path) -> None:
    """Without a launcher, rank 0's own process holds the key-value store."""
    output = stopped(tmp_path, 2, 0)[1]
    assert "rank 1 has waited for" in output
    assert "The job's key-value store does not answer: the process that holds it hangs" in output
    assert output.count("ml-train: hang report") == 1


@pytest.mark.slow
def test_a_stopped_rank_of_four(tmp_path: Path) -> None:
    """TP 2 and DP 2: who waits for whom goes by groups."""
    output = stopped(tmp_path, 4, 2, "--tensor-model-parallel-size", "2")
    text = "".join(output.values())
    assert text.count("ml-train: hang report") == 1
    assert "Rank 2 is missing." in text
    assert "rank 3 waits for rank 2" in text or "wait for rank 2" in text


def under_torchrun(tmp_path: Path, size: int, number: signal.Signals, *more: str) -> str:
    """Signal the last rank after step 12; the run is restarted, resumes and ends well."""
    folder, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "1"]
    command += ["--nproc-per-node", str(size)]
    arguments = words(folder, tokens(tmp_path), "--save-interval", "5", *more, steps=40)
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*command, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        until_step(folder, 12, process)
        for child in psutil.Process(process.pid).children():
            if child.environ().get("RANK") == str(size - 1):
                child.send_signal(number)
        assert process.wait(timeout=150) == 0, log.read_text(encoding="utf-8")[-6000:]
    finally:
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()
        process.kill()
        process.wait(timeout=10)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    starts = [entry["iteration"] for entry in map(json.loads, lines) if entry["kind"] == "start"]
    # The newest whole one: that of step 10 may still have been written when the rank went.
    assert starts in ([0, 5], [0, 10], [0, 15], [0, 20])
    assert (folder / "iter_0000040" / "COMPLETE").is_file()
    return log.read_text(encoding="utf-8")


def test_a_killed_rank_and_the_elastic_restart(tmp_path: Path) -> None:
    output = under_torchrun(tmp_path, 2, signal.SIGKILL)
    assert "ml-train: hang report: rank 0 failed in" in output
    assert "Rank 1 is missing." in output


@pytest.mark.slow
def test_a_stopped_rank_of_four_and_the_elastic_restart(tmp_path: Path) -> None:
    output = under_torchrun(tmp_path, 4, signal.SIGSTOP, "--expert-model-parallel-size", "2")
    assert "Rank 3 is missing." in output
