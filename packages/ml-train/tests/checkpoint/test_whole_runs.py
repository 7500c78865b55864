"""Checkpoints of whole runs by `ml-train pretrain`: a small disk, virtual stages."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_runs import MODEL, done, records, tokens, train

from ml_models.megatron_core.lines import CORE_LINE
from ml_train.checkpoint.compare import compare


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size; skips where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def test_a_disk_that_fills_up_costs_saves_and_not_the_run(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 3) as disk:
        save = disk / "run"
        # Reports go to the same full disk; the index cache does not.
        save.mkdir()
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(free - 900_000))
        run = train(save, tokens(tmp_path), "--save-interval", "2", "--no-async-save")
        output = run.said
        saved = [path.name for path in sorted(save.glob("iter_*"))]
        assert saved == ["iter_0000002"], (saved, output)
        assert "step 4 is NOT saved (rank 0: [Errno 28] No space left on device" in output
        assert "step 6 is NOT saved" in output and "step 8/8  loss" in output
        assert run.code == 1
        assert "The run ended after step 8 and its last state could not be saved" in run.said
        # With room again, the same command resumes from the whole one.
        ballast.unlink()
        output = done(train(save, tokens(tmp_path), "--load", str(save), "--keep-last", "1"))
        assert "resuming from" in output and "after step 2" in output


def test_virtual_stages_resume_to_the_bit(tmp_path: Path) -> None:
    """PP 2 with two stages per process, four layers; then the checkpoint in one process."""
    prefix, whole, again = tokens(tmp_path), tmp_path / "whole", tmp_path / "again"
    model = tuple("num_layers=4" if word == "num_layers=2" else word for word in MODEL)
    layout = ("--pipeline-model-parallel-size", "2", "--num-layers-per-virtual-pipeline-stage", "1")
    words = (*layout, "--save-interval", "2", "--exit-interval", "4")
    done(train(whole, prefix, *words, processes=2, model=model))
    load = ("--load", str(whole / "iter_0000002"), "--exit-interval", "4")
    done(train(again, prefix, *layout, *load, processes=2, model=model))
    compared = list(compare(whole / "iter_0000004", again / "iter_0000004"))
    assert len(compared) > 80
    assert [comparison.key for comparison in compared if not comparison.equal] == []
    layout_of = json.loads((whole / "iter_0000004/run_state.json").read_text())["layout"]
    assert layout_of["vp"] == 2
    single = tmp_path / "one"
    alone = train(single, prefix, *load, model=model)
    if CORE_LINE == "0.12":
        assert "optimizer state is loaded only in the layout that saved it" in alone.said
        return
    done(alone)
    losses, expected = ([e["loss"] for e in records(f, "report")] for f in (single, whole))
    assert losses == pytest.approx(expected[2:], rel=1e-5)
