"""Findings name what stands out in a run."""

from __future__ import annotations

from pathlib import Path

from fake_run import append

from ml_train.report.findings import findings
from ml_train.report.page import render_page
from ml_train.report.records import read_run


def test_findings_name_what_stands_out(resumed_run: Path) -> None:
    last = read_run(resumed_run).reports[-1]
    odd = {**last, "iteration": 62, "loss": "nan", "grad_norm": 99.0, "skipped_steps": 2}
    odd["expert_load"] = [[0.99, 0.01, *[0.0] * 6], *last["expert_load"][1:]]
    odd["phase_seconds"] = {"data": 30.0}
    odd["step_seconds"] = 31.0
    append(resumed_run, **odd)
    with (resumed_run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "report", "iter')
    text = "\n".join(findings(read_run(resumed_run)))
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
    render_page(read_run(resumed_run))
