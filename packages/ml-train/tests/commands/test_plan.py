"""ml-train plan as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_train.cli import main

TINY = ("--recipe", "grok1-tiny", "--seq-length", "32")


def plan(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["plan", *words])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_a_plan_says_what_a_rank_needs_and_sends(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(capfd, *TINY, "--device", "h100")
    assert code == 0, err
    assert "TP2 PP2 EP2 ETP2 DP2" in out and "it fits" in out
    for heading in ("parameters", "activations", "all-to-all", "stage 1 (loss)"):
        assert heading in out
    assert "Warning" not in err


def test_the_document_adds_up(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(capfd, *TINY, "--device", "ascend-910b", "--json")
    document = json.loads(out)
    assert code == 0 and document["schema"] == 1
    assert sum(ranks["number"] for ranks in document["ranks"]) == document["layout"]["world"] == 8
    for ranks in document["ranks"]:
        held = sum(ranks[key] for key in ("parameters", "gradients", "main_parameters", "moments"))
        assert ranks["peak"] == held + max(ranks["activations"], ranks["update"])
    peak = max(ranks["peak"] for ranks in document["ranks"])
    assert document["margin_bytes"] == 64_000_000_000 - peak


def test_a_run_that_does_not_fit_fails_and_says_what_makes_room(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = tmp_path / "small.toml"
    small.write_text(
        "memory_bytes = 1e7\ntflops = { float32 = 1.0 }\nmemory_bytes_per_second = 1e9\n"
        "intra_node_bytes_per_second = 1e9\ndevices_per_node = 8\n"
    )
    code, out, _ = plan(capfd, *TINY, "--device", str(small))
    assert code == 1
    assert "does not fit" in out
    assert "--use-distributed-optimizer saves" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "h100", "--nproc-per-node", "7"), "4 or 8 processes have some"),
        (
            ("--device", "h100", "--tensor-model-parallel-size", "3"),
            "Nearest legal layouts: TP2",
        ),
        (("--device", "h1000"), "No device is called 'h1000'"),
        (("--device", "h100", "--nnodes", "0"), "--nnodes"),
        (("--device", "h100", "--trian-iters", "3"), "--train-iters"),
    ],
)
def test_bad_usage_is_one_sentence(
    capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, _, err = plan(capfd, "--recipe", "grok1-tiny", *words)
    assert code == 2
    assert said in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--device is not given"),
        (("--calibrate", "new.toml", "--recipe", "grok1-tiny"), "--recipe would have no effect"),
        (("--calibrate", "new.toml", "--bf16", "--json"), "--bf16, --json would have no effect"),
        (("--calibrate", "new.json"), "must end in .toml"),
        (("--calibrate", "new.toml", "--nproc-per-node", "0"), "--nproc-per-node is 0"),
        (("--calibrate", "new.toml", "--device", "h100"), "No platform is called 'h100'"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused_before_it_measures(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = plan(capfd, *words)
    assert code == 2 and said in err
    assert not list(tmp_path.iterdir())
