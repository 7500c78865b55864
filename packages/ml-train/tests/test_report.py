"""ml-train report over what the callbacks write: merging of resumed runs, findings, one file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fake_run import write_run

from ml_train.commands import report
from ml_train.config.flags import FlagParser
from ml_train.report.findings import findings
from ml_train.report.page import render_page
from ml_train.report.records import ReportError, read_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Killed after step 34, resumed from the checkpoint of step 30."""
    write_run(tmp_path / "metrics.jsonl", range(1, 35), range(31, 61))
    return tmp_path


def append(run: Path, **record) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def test_a_resumed_run_is_one_run(run: Path) -> None:
    records = read_run(run)
    assert records.series("loss")[0] == list(range(2, 61, 2))
    assert [v["iteration"] for v in records.validations] == [20, 40, 60]
    assert records.resumed_at == [30] and len(records.starts) == 2
    assert read_run(run / "metrics.jsonl").reports == records.reports
    assert findings(records) == ["The run was started again once: after step 30."]


def test_a_run_begun_anew_in_the_same_folder_replaces_the_first(tmp_path: Path) -> None:
    write_run(tmp_path / "metrics.jsonl", range(1, 21), range(1, 11))
    records = read_run(tmp_path)
    assert records.series("loss")[0] == [2, 4, 6, 8, 10] and records.validations == []


def test_the_page_stands_alone(run: Path) -> None:
    text = render_page(read_run(run))
    assert text.count("data:image/svg+xml;base64,") == 11
    assert "http" not in re.sub(r'base64,[^"]*', "", text)
    assert "<script" not in text and "<link" not in text
    for words in ("grok1-tiny", "60 of 60", "TP2 PP2 EP2", "train_iters", "started again once"):
        assert words in text
    changed = re.search(r'<tr class="changed"><td>train_iters</td><td class="v">60</td>', text)
    assert changed and '<tr><td>seed</td><td class="v">1234</td></tr>' in text


def test_text_from_the_run_is_escaped(run: Path) -> None:
    append(run, kind="error", iteration=60, text="ValueError: <script>alert(1)</script>")
    text = render_page(read_run(run))
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text


def test_findings_name_what_stands_out(run: Path) -> None:
    last = read_run(run).reports[-1]
    odd = {**last, "iteration": 62, "loss": "nan", "grad_norm": 99.0, "skipped_steps": 2}
    odd["expert_load"] = [[0.99, 0.01, *[0.0] * 6], *last["expert_load"][1:]]
    odd["phase_seconds"] = {"data": 30.0}
    odd["step_seconds"] = 31.0
    append(run, **odd)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "report", "iter')
    text = "\n".join(findings(read_run(run)))
    for words in (
        "1 unreadable lines",
        "loss is not a finite number at step 62",
        "2 updates were skipped",
        "5 times its median so far at step 62",
        "layer 0 expert 1, layer 0 expert 2",
        "and 1 more",
        "raise --num-workers",
    ):
        assert words in text
    render_page(read_run(run))


def command(*arguments: str) -> int:
    parser = FlagParser("ml-train report", "")
    report.add_arguments(parser)
    return report.run(parser.parse_args(arguments))


def test_the_command_writes_page_and_picture(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, page = tmp_path / "new" / "loss.png", tmp_path / "other" / "r.html"
    assert command(str(run), "--output", str(page), "--loss-curve", str(picture)) == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert page.read_text().startswith("<!doctype html>")
    assert "step 60 of 60: loss" in capsys.readouterr().out
    assert command(str(run)) == 0 and (run / "report.html").exists()


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="RUN is the --save directory"):
        command(str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text('{"kind": "start", "iteration": 0}\n\n')
    with pytest.raises(ReportError, match="no report of a step yet"):
        command(str(tmp_path))


def test_a_run_without_experts_or_times_has_a_page(tmp_path: Path) -> None:
    record = {
        "kind": "report", "iteration": 1, "train_iters": 1, "loss": 3.0, "aux_loss": None,
        "tokens_per_second_per_device": 1.0, "model_tflops_per_device": 0.1, "mfu": None,
        "memory_bytes": 0, "step_seconds": 1.0, "expert_load": [], "phase_seconds": {},
    }  # fmt: skip
    append(tmp_path, **record)
    text = render_page(read_run(tmp_path))
    assert "Nothing stood out" in text and "Experts" not in text
