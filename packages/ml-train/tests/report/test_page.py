"""The report is one HTML file, whatever the run holds."""

from __future__ import annotations

import re
from pathlib import Path

from fake_run import append

from ml_train.report.page import render_page
from ml_train.report.records import read_run


def test_the_page_stands_alone(resumed_run: Path) -> None:
    text = render_page(read_run(resumed_run))
    assert text.count("data:image/svg+xml;base64,") == 11
    assert "http" not in re.sub(r'base64,[^"]*', "", text)
    assert "<script" not in text and "<link" not in text
    for words in ("grok1-tiny", "60 of 60", "TP2 PP2 EP2", "train_iters", "started again once"):
        assert words in text
    changed = re.search(r'<tr class="changed"><td>train_iters</td><td class="v">60</td>', text)
    assert changed and '<tr><td>seed</td><td class="v">1234</td></tr>' in text


def test_text_from_the_run_is_escaped(resumed_run: Path) -> None:
    append(resumed_run, kind="error", iteration=60, text="ValueError: <script>alert(1)</script>")
    text = render_page(read_run(resumed_run))
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text


def test_a_run_without_experts_or_times_has_a_page(tmp_path: Path) -> None:
    record = {
        "kind": "report", "iteration": 1, "train_iters": 1, "loss": 3.0, "aux_loss": None,
        "tokens_per_second_per_device": 1.0, "model_tflops_per_device": 0.1, "mfu": None,
        "memory_bytes": 0, "step_seconds": 1.0, "expert_load": [], "phase_seconds": {},
    }  # fmt: skip
    append(tmp_path, **record)
    text = render_page(read_run(tmp_path))
    assert "Nothing stood out" in text and "Experts" not in text
