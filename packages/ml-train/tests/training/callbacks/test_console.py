"""The lines of a log file, and the progress display of a terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from fake_run import make_step, make_trainer, run_steps

from ml_train.training.callbacks import console
from ml_train.training.callbacks.reporter import Reporter, summarize


def test_the_line_says_what_was_asked_for() -> None:
    line = console.report_line(summarize([make_step(4, mfu=0.413, z_loss=0.2)], 20))
    assert line == (
        "step 4/20  loss 4.0000  aux 1.5000  z 0.2000  lr 1.000e-03  grad norm 2.000  "
        "1,000 tokens/s/device  0.01 TFLOP/s/device  MFU 41.3%  1.00 GiB  experts 38 62 %"
    )
    many = console.expert_text([[1 / 64] * 63 + [1 / 64]] * 2)
    assert many == "1.6-1.6 %"


def test_plain_lines_and_warnings() -> None:
    out = io.StringIO()
    sink, view = console.ConsoleSink(out), make_trainer()
    reporter = Reporter(log_interval=1, sinks=[sink], warnings=["x has no effect."])
    run_steps(reporter, view, [1])
    reporter.on_validation_end(view, {"loss": 3.0})
    reporter.on_save(view, Path("ckpt/iter_0000001"))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("grok1-tiny: 9.6 M parameters, 8.8 M active per token; from step 0")
    assert lines[1] == "warning: x has no effect."
    assert lines[2].startswith("step 1/20  loss 7.0000")
    assert lines[3:] == ["validation at step 1: loss 3.0000", "saved at step 1: ckpt/iter_0000001"]


def test_a_terminal_gets_a_progress_display(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    sink, view = console.console_sink(), make_trainer()
    assert isinstance(sink, console.TerminalSink)
    reporter = Reporter(log_interval=1, sinks=[sink])
    run_steps(reporter, view, range(1, 21))
    reporter.on_train_end(view)
    text = out.getvalue()
    assert "step 20/20  loss" in text and "20/20" in text and "\x1b[" in text
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not isinstance(console.console_sink(), console.TerminalSink)
