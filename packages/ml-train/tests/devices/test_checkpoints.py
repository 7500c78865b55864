"""Saves on the simulated npu: a resume to the bit, and another layout from the same checkpoint."""

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


def test_resume_to_the_bit_and_under_another_layout(tmp_path: Path) -> None:
    prefix = tokens(tmp_path)
    whole, again, other = (tmp_path / name for name in ("whole", "again", "other"))

    def run(folder: Path, *words: object) -> str:
        return done(train(folder, prefix, *OPTIMIZER, *words, device="npu", processes=4))

    run(whole, *LAYOUT)
    output = run(again, *LAYOUT, "--exit-interval", 2)
    assert "checkpoint: step 2 saved to " in output
    run(other, *OTHER_LAYOUT, "--load", again)
    run(again, *LAYOUT, "--load", again)
    wanted = losses(whole)
    assert sorted(wanted) == [1, 2, 3, 4]
    assert losses(again) == wanted
    assert losses(other) == pytest.approx({step: wanted[step] for step in (3, 4)}, rel=2e-4)
