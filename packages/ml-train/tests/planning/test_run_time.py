"""The time in a plan: its parts, its sentences and its JSON."""

from __future__ import annotations

import json

import pytest

from ml_train.cli import main

RUN = (
    *("plan", "--model", "grok1-tiny", "--device", "h100", "--nproc-per-node", "2", "--bf16"),
    *("--seq-length", "32", "--global-batch-size", "4", "--model-override", "vocab_size=1024"),
    *("num_layers=2", "--pipeline-model-parallel-size", "2"),
)


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*RUN, *words]) == 0
    return capsys.readouterr().out


def test_json_has_the_time_of_a_step_and_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--train-tokens", "12800", "--storage-gigabytes-per-second", "0.5", "--json")
    document = json.loads(plan(capsys, *words))
    time = document["time"]
    step = time["step_seconds"]
    assert 0 < step["low"] < step["expected"] < step["high"]
    assert sum(time["parts"].values()) == pytest.approx(step["expected"])
    assert time["bubble_share"] == pytest.approx(time["parts"]["bubble"] / step["expected"])
    # Four sequences of 32 tokens a step, on two devices.
    assert time["tokens_per_second_per_device"] == pytest.approx(64 / step["expected"])
    assert time["run"]["steps"] == 100
    assert time["run"]["seconds"]["high"] == pytest.approx(100 * step["high"])
    assert time["run"]["device_hours"] == pytest.approx(200 * step["expected"] / 3600)
    assert time["save_seconds"] == pytest.approx(document["checkpoint_bytes"] / 0.5e9)
    assert any("published runs" in sentence for sentence in time["assumptions"])


def test_the_report_says_where_the_time_goes(capsys: pytest.CaptureFixture[str]) -> None:
    text = plan(capsys)
    assert "Time of a step on stage" in text
    assert "tokens/s per device" in text
    # Ten iterations are the default of --train-iters.
    assert "1,280 tokens take" in text
    assert "The range is a factor of" in text


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--train-tokens", "0"), ("--storage-gigabytes-per-second", "-1")],
)
def test_odd_figures_are_refused(capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    assert main([*RUN, flag, value]) == 2
    assert flag in capsys.readouterr().err
