"""The profiler records the steps of its window, on the ranks that it is given."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from fake_run import make_step, make_trainer, run_steps

from ml_train.training.callbacks.profile import Profiler


def test_the_profiler_writes_a_trace_of_the_window(tmp_path: Path) -> None:
    profiler = Profiler(directory=tmp_path / "profile", start=2, end=4, ranks=(0,))
    view = make_trainer()
    for iteration in range(1, 6):
        profiler.on_step_start(view)
        torch.ones(3) @ torch.ones(3)
        view.iteration = iteration
        profiler.on_step_end(view, make_step(iteration))
    trace = tmp_path / "profile" / "rank00000_steps2-3.json"
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("aten::dot") == 2
    other = Profiler(directory=tmp_path / "none", start=1, end=2, ranks=(1,))
    run_steps(other, make_trainer(), [1])
    assert not (tmp_path / "none").exists()
