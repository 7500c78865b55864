"""What programs read: JSON lines, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_run import make_trainer, run_steps

from ml_train.errors import ConfigError
from ml_train.training.callbacks.files import JsonLinesSink, TensorBoardSink, WandbSink
from ml_train.training.callbacks.reporter import Reporter


def test_json_lines_survive_kills_and_odd_numbers(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "metrics.jsonl"
    view = make_trainer()
    run_steps(Reporter(log_interval=1, sinks=[JsonLinesSink(path)]), view, [1], loss=float("nan"))
    with path.open("a") as file:
        file.write('{"kind": "rep')  # the process was killed here
    view = make_trainer(iteration=1)
    run_steps(Reporter(log_interval=1, sinks=[JsonLinesSink(path)], warnings=["w"]), view, [2])
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    first, nan, _, again, last = (json.loads(li) if li.endswith("}") else {} for li in lines)
    assert first["kind"] == "start" and first["config"]["training"]["train_iters"] == 20
    assert first["model"]["architecture"] == "grok1" and first["num_devices"] == 1
    assert first["versions"]["torch"] == torch.__version__
    assert nan["loss"] == "nan"
    assert again["iteration"] == 1 and again["warnings"] == ["w"]
    assert last["kind"] == "report" and last["expert_load"] == [[0.25, 0.75], [0.5, 0.5]]


def test_tensorboard_holds_every_figure_and_a_resumed_run_replaces_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = tmp_path / "tb" / "deep"
    view = make_trainer()
    run_steps(
        Reporter(log_interval=1, sinks=[TensorBoardSink(directory)]), view, [1, 2, 3], loss=9.0
    )
    view = make_trainer(iteration=1)
    reporter = Reporter(log_interval=1, sinks=[TensorBoardSink(directory)])
    run_steps(reporter, view, [2, 3])
    reporter.on_validation_end(view, {"loss": 3.0})
    reporter.on_train_end(view)
    events = EventAccumulator(str(directory))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "train/loss", "train/aux_loss", "train/learning_rate", "train/grad_norm",
        "speed/tokens_per_second_per_device", "speed/model_tflops_per_device", "memory/peak_gib",
        "experts/layer_01_expert_01", "router_entropy/layer_00", "seconds/forward",
        "validation/loss",
    } <= tags  # fmt: skip
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(1, 9.0), (2, 6.0), (3, 5.0)]


def test_wandb_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = WandbSink(project="p", name="n", directory=tmp_path / "w")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        sink.start(make_trainer(), [])
    logged: list = []
    fake = SimpleNamespace(
        init=lambda **kw: SimpleNamespace(
            log=lambda values, step: logged.append((step, values)),
            finish=lambda: logged.append((kw["project"], kw["name"])),
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    reporter, view = Reporter(log_interval=1, sinks=[sink]), make_trainer()
    run_steps(reporter, view, [1])
    reporter.on_train_end(view)
    assert logged[0][0] == 1 and logged[0][1]["train/loss"] == 7.0 and logged[1] == ("p", "n")
