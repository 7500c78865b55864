"""Saves on the simulated npu: a resume to the bit, and another layout from the same checkpoint."""

import json
from pathlib import Path

import pytest
from device_runs import train
from tiny_runs import done, records, tokens

# float32 main weights, Adam's moments in shards; a save goes on in the background by default.
OPTIMIZER = ("--bf16", "--use-distributed-optimizer")
LAYOUT = (
    *("--tensor-model-parallel-size", 2, "--expert-model-parallel-size", 2),
    *("--expert-tensor-parallel-size", 1),
)
OTHER_LAYOUT = ("--pipeline-model-parallel-size", 2, "--expert-model-parallel-size", 2)


def losses(folder: Path) -> dict[int, float]:
    """Step -> loss."""
    return {step["iteration"]: step["loss"] for step in records(folder, "report")}


def assert_fused(told: Path, device: str, *, steps: int) -> None:
    """torch's AdamW of rank 0 had its fused kernel in every step, with its count on the device."""
    lines = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == steps
    for name, fused, where in (group for line in lines for group in line):
        assert (name, fused) == ("AdamW", True)
        assert where in ([device], [])  # a rank of the distributed optimizer may hold no shard


def test_resume_to_the_bit_and_under_another_layout(tmp_path: Path) -> None:
    prefix = tokens(tmp_path)
    whole, again, other = (tmp_path / name for name in ("whole", "again", "other"))

    told = tmp_path / "adam"

    def run(folder: Path, *words: object) -> str:
        words = (*OPTIMIZER, *words)
        return done(train(folder, prefix, *words, device="npu", processes=4, adam=str(told)))

    run(whole, *LAYOUT)
    output = run(again, *LAYOUT, "--exit-interval", 2)
    assert "checkpoint: step 2 saved to " in output
    run(other, *OTHER_LAYOUT, "--load", again)
    run(again, *LAYOUT, "--load", again)
    wanted = losses(whole)
    assert sorted(wanted) == [1, 2, 3, 4]
    assert losses(again) == wanted
    assert losses(other) == pytest.approx({step: wanted[step] for step in (3, 4)}, rel=2e-4)
    assert_fused(told, "npu", steps=4 + 2 + 2 + 2)


def test_resume_to_the_bit_on_a_gpu(tmp_path: Path) -> None:
    prefix, told = tokens(tmp_path), tmp_path / "adam"
    whole, again = tmp_path / "whole", tmp_path / "again"

    def run(folder: Path, *words: object) -> None:
        words = ("--use-distributed-optimizer", *words)
        done(train(folder, prefix, *words, device="cuda", adam=str(told)))

    run(whole)
    run(again, "--exit-interval", 2)
    run(again, "--load", again)
    assert losses(again) == losses(whole)
    assert_fused(told, "cuda", steps=4 + 2 + 2)
