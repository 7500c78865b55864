"""A plan beside the run that it was made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_train.cli import main
from ml_train.report.planned import compare, read_plan
from ml_train.report.records import ReportError, read_run

RUN = (
    *("--model", "grok1-tiny", "--seq-length", "32", "--global-batch-size", "2"),
    *("--model-override", "vocab_size=512", "hidden_size=32", "num_layers=2"),
)


def plan_of(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> Path:
    capsys.readouterr()
    main(["plan", *RUN, "--device", "h100", "--nproc-per-node", "1", "--json", *words])
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    return path


def test_a_real_run_beside_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save = tmp_path / "save"
    words = ["--mock-data", "--train-iters", "3", "--log-interval", "1", "--save", str(save)]
    assert main(["pretrain", *RUN, *words]) == 0
    plan = plan_of(capsys, tmp_path / "plan.json")
    assert main(["report", str(save), "--plan", str(plan)]) == 0
    lines = capsys.readouterr().out
    assert "peak memory of rank 0: planned" in lines
    # The plan's figure is its document's, and the run's is the largest that it wrote.
    pairs = {pair.name: pair for pair in compare(read_plan(plan), read_run(save))}
    memory = pairs["peak memory of rank 0"]
    assert memory.planned == json.loads(plan.read_text())["ranks"][0]["peak"] / 1e9
    largest = max(report["memory_bytes"] for report in read_run(save).reports)
    assert memory.measured == largest / 1e9


def test_a_plan_of_another_run_is_refused(
    tmp_path: Path, resumed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(capsys, tmp_path / "plan.json")
    with pytest.raises(ReportError, match="tp is 1 in the plan and 2 in the run"):
        compare(read_plan(plan), read_run(resumed_run))


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("[]", "is not a plan"), ('{"ranks": [], "layout": {}}', "schema None")],
)
def test_a_file_that_is_no_plan_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReportError, match=words):
        read_plan(path)
