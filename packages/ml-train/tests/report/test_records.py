"""metrics.jsonl of several starts is one run."""

from __future__ import annotations

from pathlib import Path

from fake_run import write_run

from ml_train.report.findings import findings
from ml_train.report.records import read_run


def test_a_resumed_run_is_one_run(resumed_run: Path) -> None:
    records = read_run(resumed_run)
    assert records.series("loss")[0] == list(range(2, 61, 2))
    assert [v["iteration"] for v in records.validations] == [20, 40, 60]
    assert records.resumed_at == [30] and len(records.starts) == 2
    assert read_run(resumed_run / "metrics.jsonl").reports == records.reports
    assert findings(records) == ["The run was started again once: after step 30."]


def test_a_run_begun_anew_in_the_same_folder_replaces_the_first(tmp_path: Path) -> None:
    write_run(tmp_path / "metrics.jsonl", range(1, 21), range(1, 11))
    records = read_run(tmp_path)
    assert records.series("loss")[0] == [2, 4, 6, 8, 10] and records.validations == []
