"""ml-train report: the page, the picture, and what cannot be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_train.commands import report
from ml_train.config.flags import FlagParser
from ml_train.report.records import ReportError


def command(*arguments: str) -> int:
    parser = FlagParser("ml-train report", "")
    report.add_arguments(parser)
    return report.run(parser.parse_args(arguments))


def test_the_command_writes_page_and_picture(
    resumed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, page = tmp_path / "new" / "loss.png", tmp_path / "other" / "r.html"
    assert command(str(resumed_run), "--output", str(page), "--loss-curve", str(picture)) == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert page.read_text().startswith("<!doctype html>")
    assert "step 60 of 60: loss" in capsys.readouterr().out
    assert command(str(resumed_run)) == 0 and (resumed_run / "report.html").exists()


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="RUN is the --save directory"):
        command(str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text('{"kind": "start", "iteration": 0}\n\n')
    with pytest.raises(ReportError, match="no report of a step yet"):
        command(str(tmp_path))
