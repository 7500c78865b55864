"""What an interval of steps comes to, and what the reporter does at its end."""

from __future__ import annotations

import pytest
from fake_run import Collect, make_step, make_trainer, run_steps

from ml_train import terminal
from ml_train.training.callbacks.reporter import Reporter, Sink, summarize


def test_one_report_per_interval_and_one_at_the_end() -> None:
    sink, view = Collect(), make_trainer()
    reporter = Reporter(log_interval=8, sinks=[sink])
    run_steps(reporter, view, range(1, 21))
    reporter.on_train_end(view)
    assert sink.calls == [(8, 8), (16, 8), (20, 4), "closed"]


def test_an_error_loses_no_steps() -> None:
    sink, view = Collect(), make_trainer()
    reporter = Reporter(log_interval=8, sinks=[sink])
    run_steps(reporter, view, range(1, 4))
    reporter.on_error(view, ValueError("loss is NaN"))
    reporter.on_train_end(view)
    assert sink.calls == [(3, 3), ("error", "ValueError: loss is NaN"), "closed"]


def test_an_interval_is_means_over_steps_and_rates_over_time() -> None:
    slow = make_step(2, step_seconds=3.0, tokens_per_second_per_device=200.0, memory_bytes=2**31)
    report = summarize([make_step(1), slow], 20)
    assert (report.loss, report.num_steps, report.memory_bytes) == (6.5, 2, 2**31)
    assert report.tokens_per_second_per_device == pytest.approx((1000 + 3 * 200) / 4)
    assert report.step_seconds == 2.0
    assert report.expert_load == [[0.25, 0.75], [0.5, 0.5]]
    assert report.mfu is None and report.z_loss is None
    without = summarize([make_step(1, aux_loss=None, expert_load=[], router_entropy=[])], 20)
    assert without.aux_loss is None and without.expert_load == []


def test_a_full_disk_costs_reports_and_not_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(Sink):
        def report(self, report) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    sink, view = Collect(), make_trainer()
    reporter = Reporter(log_interval=1, sinks=[Full(), sink])
    with terminal.speaking(log_to_stdout=True):
        run_steps(reporter, view, range(1, 3))
        reporter.on_train_end(view)
    assert sink.calls == [(1, 1), (2, 1), "closed"]
    assert capsys.readouterr().out == (
        "warning: Full lost a report: [Errno 28] No space left on device\n"
    )
