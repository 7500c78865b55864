"""Whole runs that are started again: whose checkpoint a start goes on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import BATCH, MODEL, done, records, tokens, train

from ml_train.checkpoint.compare import compare
from ml_train.checkpoint.ownership import lock


def names(save: Path) -> list[str]:
    return sorted(path.name for path in save.glob("iter_*"))


def trained(save: Path) -> list[int]:
    """The steps of all starts, in order."""
    return [entry["iteration"] for entry in records(save, "report")]


def without_identity(save: Path) -> None:
    """Make every checkpoint one of version 1.0.0."""
    from ml_models.files.integrity import write_integrity

    (save / "latest_checkpointed_iteration.txt").unlink()
    for folder in save.glob("iter_*"):
        document = json.loads((folder / "run_state.json").read_text())
        del document["identity"]
        (folder / "run_state.json").write_text(json.dumps(document))
        for name in ("COMPLETE", "integrity.json"):
            (folder / name).unlink()
        write_integrity(folder)


def test_a_branch_goes_on_with_its_own_checkpoints(tmp_path: Path) -> None:
    prefix, save = tokens(tmp_path), tmp_path / "run"
    keep = ("--save-interval", "2", "--keep-last", "1", "--keep-every", "2")
    done(train(save, prefix, *keep, "--exit-interval", "6"))
    branch = (*keep, "--load", str(save / "iter_0000002"), "--weight-decay", "0.2")
    log = done(train(save, prefix, *branch, "--exit-interval", "4"))
    assert "branches off there" in log and "resuming from" in log
    # The same command, then --load SAVE: both go on after the branch's own step 4.
    done(train(save, prefix, *branch, "--exit-interval", "5"))
    done(train(save, prefix, *keep, "--load", str(save), "--weight-decay", "0.2"))
    assert trained(save) == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7, 8]
    remaining = names(save)
    assert [n for n in remaining if ".run-" not in n][-1] == "iter_0000008"
    aside = [n.partition(".run-")[0] for n in remaining if ".run-" in n]
    assert aside == ["iter_0000004", "iter_0000006"], "the first run's checkpoints are kept"
    assert (save / "latest_checkpointed_iteration.txt").read_text() == "8\n"


def test_weights_then_the_same_command_again(tmp_path: Path) -> None:
    prefix, weights, save = tokens(tmp_path), tmp_path / "weights", tmp_path / "run"
    done(train(weights, prefix, "--exit-interval", "2", "--no-save-optim"))
    for number, begin in enumerate(
        (
            ("--load", str(weights), "--no-load-optim", "--no-load-rng"),
            ("--pretrained-checkpoint", str(weights), "--load", str(tmp_path / "run1")),
        )
    ):
        save = tmp_path / f"run{number}"
        words = (*begin, "--save-interval", "2", "--keep-last", "1")
        log = done(train(save, prefix, *words, "--exit-interval", "5"))
        assert "optimizer, schedule and step count start anew" in log
        log = done(train(save, prefix, *words))
        assert "after step 5" in log and trained(save) == list(range(1, 9))
        assert names(save) == ["iter_0000008"]
        log = done(train(save, prefix, *words))
        assert "finished: nothing is left to train" in log and trained(save)[-1] == 8
    # Both have begun with the same weights and gone on with their own optimizer.
    first, second = (tmp_path / f"run{n}" / "iter_0000008" for n in (0, 1))
    assert [record.key for record in compare(first, second) if not record.equal] == []


def test_another_run_in_a_used_save_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    prefix, save = tokens(tmp_path), tmp_path / "run"
    done(train(save, prefix, "--exit-interval", "2"))
    before = {path: path.stat().st_mtime_ns for path in save.rglob("*") if path.is_file()}
    refused = train(save, prefix, "--seed", "99", "--keep-last", "1")
    assert refused.code == 1 and "Traceback" not in refused.said
    assert "iter_0000002" in refused.said and "--seed" in refused.said
    assert before == {path: path.stat().st_mtime_ns for path in save.rglob("*") if path.is_file()}
    # The very same command is the same job.
    assert "after step 2" in done(train(save, prefix, "--exit-interval", "2"))


def test_checkpoints_of_version_1_0_0_go_on(tmp_path: Path) -> None:
    prefix, save = tokens(tmp_path), tmp_path / "run"
    done(train(save, prefix, "--save-interval", "2", "--exit-interval", "4"))
    without_identity(save)
    words = ("--load", str(save), "--save-interval", "2", "--keep-last", "1")
    assert "after step 4" in done(train(save, prefix, *words, "--exit-interval", "6"))
    done(train(save, prefix, *words))
    assert trained(save) == list(range(1, 9))
    assert names(save) == ["iter_0000002", "iter_0000004", "iter_0000008"]


def test_the_settings_of_a_start_hold_and_the_directory_may_move(tmp_path: Path) -> None:
    prefix, save, moved = tokens(tmp_path), tmp_path / "run", tmp_path / "moved"
    length = ("--train-iters", "8", "--global-batch-size", str(BATCH), "--split", "1,0,0")
    constant = (*length, "--lr-decay-style", "constant", "--lr", "1e-2")
    done(train(save, prefix, "--exit-interval", "2", steps=constant))
    save.rename(moved)
    lower = (*length, "--lr-decay-style", "constant", "--lr", "1e-3")
    done(train(moved, prefix, "--load", str(moved), "--exit-interval", "4", steps=lower))
    rates = [entry["learning_rate"] for entry in records(moved, "report")]
    assert trained(moved) == [1, 2, 3, 4] and rates == [1e-2, 1e-2, 1e-3, 1e-3]


def test_a_run_without_optimizer_state_counts_on(tmp_path: Path) -> None:
    prefix, save = tokens(tmp_path), tmp_path / "run"
    words = ("--no-save-optim", "--load", str(save), "--exit-interval", "3")
    done(train(save, prefix, *words))
    refused = train(save, prefix, *words)
    assert refused.code == 1 and "add --no-load-optim" in refused.said
    log = done(train(save, prefix, *words, "--no-load-optim", "--no-load-rng"))
    assert "Adam starts anew" in log and trained(save) == [1, 2, 3, 4, 5, 6]


def test_without_save_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, current = tokens(tmp_path), tmp_path / "here"
    current.mkdir()
    words = [*MODEL, "--data-path", prefix, "--split", "1,0,0", "--train-iters", "3"]
    words += ["--global-batch-size", str(BATCH), "--save-interval", "2"]
    ended = subprocess.run(
        [sys.executable, "-m", "ml_train.cli", "pretrain", *words],
        cwd=current,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "step 3/3" in ended.stdout and list(current.iterdir()) == []


def start(save: Path, prefix: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ml_train.cli", "pretrain", *MODEL, "--data-path", prefix]
    command += ["--split", "1,0,0", "--global-batch-size", str(BATCH), "--save", str(save)]
    return subprocess.Popen(
        [*command, "--train-iters", "100000", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_step(save: Path, step: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 90
    while not (save / "metrics.jsonl").is_file() or max([0, *trained(save)]) < step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_two_jobs_and_ctrl_c(tmp_path: Path) -> None:
    """The second is refused by name; the first has one line at Ctrl-C, and exit code 130."""
    prefix, save = tokens(tmp_path), tmp_path / "run"
    first = start(save, prefix)
    try:
        until_step(save, 3, first)
        second = train(save, prefix, "--load", str(save))
        assert second.code == 1 and "in use by another job" in second.said
        assert f"pid {first.pid}" in second.said and "since 20" in second.said
        first.send_signal(signal.SIGINT)
        log, _ = first.communicate(timeout=60)
        assert first.returncode == 130, log
        told = log[log.rindex("stopped after step") :]
        assert "Ctrl-C received; saved to" in told and "the same command goes on" in told
        assert "Traceback" not in log and log.count("saved to") == 2
        assert not (save / lock.NAME).exists()
    finally:
        first.kill()
        first.wait(timeout=10)


def test_a_killed_job_is_no_obstacle(tmp_path: Path) -> None:
    prefix, save = tokens(tmp_path), tmp_path / "run"
    first = start(save, prefix, "--save-interval", "2")
    try:
        until_step(save, 5, first)
        first.kill()
        first.wait(timeout=10)
        assert (save / lock.NAME).exists()
        few = ("--train-iters", "2", "--global-batch-size", str(BATCH), "--split", "1,0,0")
        again = train(save, prefix, "--load", str(save), steps=few)
        assert "nothing is left to train" in done(again)
        assert "in use" not in again.said and not (save / lock.NAME).exists()
    finally:
        first.kill()
        first.wait(timeout=10)
