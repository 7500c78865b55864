"""The picture of a plan: what it says, and where it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ml_train.cli import main

RUN = (
    *("plan", "--model", "grok1-tiny", "--seq-length", "32", "--global-batch-size", "8"),
    *("--device", "h100", "--nproc-per-node", "4", "--model-override", "vocab_size=512"),
    *("hidden_size=32", "--pipeline-model-parallel-size", "4"),
)


def test_a_picture_has_every_class_the_line_of_the_device_and_the_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "plan.svg"
    assert main([*RUN, "--plot", str(path)]) == 0
    texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8")))
    assert {
        *("stage 0 (embedding), 1 ranks", "stages 1 to 2, 2 ranks", "stage 3 (loss), 1 ranks"),
        *("parameters", "gradients", "main parameters", "moments", "activations or update"),
        *("NVIDIA H100 SXM 80 GB", "forward", "backward", "stage"),
    } <= texts
    assert any(text.startswith("Pipeline: all 8 micro batches") for text in texts)
    assert [other.name for other in path.parent.iterdir()] == ["plan.svg"]


@pytest.mark.parametrize("name", ["plan.jpeg", "plan"])
def test_another_format_is_refused_before_anything_is_built(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--plot", str(tmp_path / name)]) == 2
    message = capsys.readouterr().err
    assert name in message and ".svg" in message
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_keeps_what_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main([*RUN, "--plot", str(tmp_path / "file" / "plan.png")]) == 1
    assert "--plot" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
