"""Reports: what an interval comes to, and how each sink writes it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ml_models import registry
from ml_train import terminal
from ml_train.config.recipes import grok1_tiny
from ml_train.config.run import RunConfig
from ml_train.config.sections.logging import LoggingSection
from ml_train.errors import ConfigError
from ml_train.training.callbacks import console
from ml_train.training.callbacks.defaults import default_callbacks
from ml_train.training.callbacks.files import JsonLinesSink, TensorBoardSink, WandbSink
from ml_train.training.callbacks.profile import Profiler
from ml_train.training.callbacks.reporter import Reporter, Sink, summarize
from ml_train.training.metrics import RouterMeter, StepMetrics
from ml_train.training.timing import PHASES, StepTimers, phase_of


def step(iteration: int, **changes) -> StepMetrics:
    values = {
        "iteration": iteration, "loss": 8.0 - iteration, "aux_loss": 1.5, "learning_rate": 1e-3,
        "grad_norm": 2.0, "tokens_per_second_per_device": 1000.0, "model_tflops_per_device": 0.01,
        "memory_bytes": 2**30, "expert_load": [[0.25, 0.75], [0.5, 0.5]], "step_seconds": 1.0,
        "router_entropy": [0.6, 0.7], "phase_seconds": {"forward": 0.4, "backward": 0.5},
        "consumed_samples": 8 * iteration,
    }  # fmt: skip
    return StepMetrics(**{**values, **changes})


def trainer(config: RunConfig | None = None, iteration: int = 0) -> SimpleNamespace:
    module = SimpleNamespace(model_config=registry.get("grok1-tiny"))
    return SimpleNamespace(
        config=config or grok1_tiny(), train_module=module, iteration=iteration, callbacks=[]
    )


def run(callback, view, iterations, **changes) -> None:
    callback.on_train_start(view)
    for iteration in iterations:
        callback.on_step_start(view)
        view.iteration = iteration
        callback.on_step_end(view, step(iteration, **changes))


class Collect(Sink):
    def __init__(self) -> None:
        self.calls: list = []

    def report(self, report) -> None:
        self.calls.append((report.iteration, report.num_steps))

    def event(self, iteration, kind, text) -> None:
        self.calls.append((kind, text))

    def close(self) -> None:
        self.calls.append("closed")


def test_one_report_per_interval_and_one_at_the_end() -> None:
    sink, view = Collect(), trainer()
    reporter = Reporter(log_interval=8, sinks=[sink])
    run(reporter, view, range(1, 21))
    reporter.on_train_end(view)
    assert sink.calls == [(8, 8), (16, 8), (20, 4), "closed"]


def test_an_error_loses_no_steps() -> None:
    sink, view = Collect(), trainer()
    reporter = Reporter(log_interval=8, sinks=[sink])
    run(reporter, view, range(1, 4))
    reporter.on_error(view, ValueError("loss is NaN"))
    reporter.on_train_end(view)
    assert sink.calls == [(3, 3), ("error", "ValueError: loss is NaN"), "closed"]


def test_an_interval_is_means_over_steps_and_rates_over_time() -> None:
    slow = step(2, step_seconds=3.0, tokens_per_second_per_device=200.0, memory_bytes=2**31)
    report = summarize([step(1), slow], 20)
    assert (report.loss, report.num_steps, report.memory_bytes) == (6.5, 2, 2**31)
    assert report.tokens_per_second_per_device == pytest.approx((1000 + 3 * 200) / 4)
    assert report.step_seconds == 2.0
    assert report.expert_load == [[0.25, 0.75], [0.5, 0.5]]
    assert report.mfu is None and report.z_loss is None
    without = summarize([step(1, aux_loss=None, expert_load=[], router_entropy=[])], 20)
    assert without.aux_loss is None and without.expert_load == []


def test_the_line_says_what_was_asked_for() -> None:
    line = console.report_line(summarize([step(4, mfu=0.413, z_loss=0.2)], 20))
    assert line == (
        "step 4/20  loss 4.0000  aux 1.5000  z 0.2000  lr 1.000e-03  grad norm 2.000  "
        "1,000 tokens/s/device  0.01 TFLOP/s/device  MFU 41.3%  1.00 GiB  experts 38 62 %"
    )
    many = console.expert_text([[1 / 64] * 63 + [1 / 64]] * 2)
    assert many == "1.6-1.6 %"


def test_plain_lines_and_warnings() -> None:
    out = io.StringIO()
    sink, view = console.ConsoleSink(out), trainer()
    reporter = Reporter(log_interval=1, sinks=[sink], warnings=["x has no effect."])
    run(reporter, view, [1])
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
    sink, view = console.console_sink(), trainer()
    assert isinstance(sink, console.TerminalSink)
    reporter = Reporter(log_interval=1, sinks=[sink])
    run(reporter, view, range(1, 21))
    reporter.on_train_end(view)
    text = out.getvalue()
    assert "step 20/20  loss" in text and "20/20" in text and "\x1b[" in text
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not isinstance(console.console_sink(), console.TerminalSink)


def test_json_lines_survive_kills_and_odd_numbers(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "metrics.jsonl"
    view = trainer()
    run(Reporter(log_interval=1, sinks=[JsonLinesSink(path)]), view, [1], loss=float("nan"))
    with path.open("a") as file:
        file.write('{"kind": "rep')  # the process was killed here
    view = trainer(iteration=1)
    run(Reporter(log_interval=1, sinks=[JsonLinesSink(path)], warnings=["w"]), view, [2])
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
    view = trainer()
    run(Reporter(log_interval=1, sinks=[TensorBoardSink(directory)]), view, [1, 2, 3], loss=9.0)
    view = trainer(iteration=1)
    reporter = Reporter(log_interval=1, sinks=[TensorBoardSink(directory)])
    run(reporter, view, [2, 3])
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
        sink.start(trainer(), [])
    logged: list = []
    fake = SimpleNamespace(
        init=lambda **kw: SimpleNamespace(
            log=lambda values, step: logged.append((step, values)),
            finish=lambda: logged.append((kw["project"], kw["name"])),
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    reporter, view = Reporter(log_interval=1, sinks=[sink]), trainer()
    run(reporter, view, [1])
    reporter.on_train_end(view)
    assert logged[0][0] == 1 and logged[0][1]["train/loss"] == 7.0 and logged[1] == ("p", "n")


def test_the_profiler_writes_a_trace_of_the_window(tmp_path: Path) -> None:
    profiler = Profiler(directory=tmp_path / "profile", start=2, end=4, ranks=(0,))
    view = trainer()
    for iteration in range(1, 6):
        profiler.on_step_start(view)
        torch.ones(3) @ torch.ones(3)
        view.iteration = iteration
        profiler.on_step_end(view, step(iteration))
    trace = tmp_path / "profile" / "rank00000_steps2-3.json"
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("aten::dot") == 2
    other = Profiler(directory=tmp_path / "none", start=1, end=2, ranks=(1,))
    run(other, trainer(), [1])
    assert not (tmp_path / "none").exists()


def test_default_callbacks_follow_the_configuration(tmp_path: Path) -> None:
    from dataclasses import replace

    from ml_train.config.sections.checkpoint import CheckpointSection

    (only,) = default_callbacks(RunConfig())
    assert [type(sink).__name__ for sink in only._sinks] == ["ConsoleSink"]
    saved = replace(RunConfig(), checkpoint=CheckpointSection(save=str(tmp_path)))
    saved = replace(saved, logging=LoggingSection(profile=True, wandb_project="p"))
    reporter, profiler = default_callbacks(saved)
    assert [type(sink).__name__ for sink in reporter._sinks] == [
        "ConsoleSink", "JsonLinesSink", "TensorBoardSink", "WandbSink",
    ]  # fmt: skip
    assert isinstance(profiler, Profiler)
    assert reporter._sinks[1]._path == tmp_path / "metrics.jsonl"


def test_timers_put_core_names_into_phases() -> None:
    assert phase_of("forward-compute") == "forward"
    assert phase_of("backward-send-forward-recv") == "communication"
    assert phase_of("all-grads-sync") == "communication"
    assert phase_of("optimizer-inner-step") == "optimizer"
    assert phase_of("forward-backward") is None
    clock = iter(range(100))
    timers = StepTimers()
    timers.now = lambda: float(next(clock))  # type: ignore[method-assign]
    timers("forward-backward", log_level=1).start(barrier=True)
    with timers.phase("data"):
        pass
    timers("forward-compute", log_level=2).start()
    with timers.phase("communication"):
        pass
    timers("forward-compute", log_level=2).stop()
    timers("forward-backward").stop()
    seconds = timers.collect()
    assert seconds == {**dict.fromkeys(PHASES, 0.0), "data": 1, "communication": 1, "forward": 2}
    assert sum(timers.collect().values()) == 0


class Router(torch.nn.Module):
    def __init__(self, layer_number: int):
        super().__init__()
        self.layer_number = layer_number
        self.observers: list[Callable[[torch.Tensor], None]] = []
        self.token_counts: torch.Tensor | None = None

    def see(self, logits: torch.Tensor) -> None:
        for observe in self.observers:
            observe(logits)


def test_router_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core import parallel_state

    from ml_train.training import metrics

    alone = SimpleNamespace(size=lambda: 1)
    for name in ("get_tensor_and_data_parallel_group", "get_pipeline_model_parallel_group"):
        monkeypatch.setattr(parallel_state, name, lambda: alone)
    values = torch.tensor([2.0, 4.0])
    tracker = {"load_balancing_loss": {"values": values, "reduce_group": alone}}
    monkeypatch.setattr(metrics, "_tracker", lambda: tracker)
    chunk = torch.nn.ModuleList([Router(1), Router(2)])
    meter = RouterMeter([chunk], num_layers=2, num_experts=4)
    chunk[0].token_counts = torch.tensor([6.0, 2.0, 0.0, 0.0])
    chunk[1].token_counts = torch.tensor([1.0, 1.0, 1.0, 1.0])
    chunk[0].see(torch.zeros(3, 4))
    chunk[0].see(torch.tensor([[100.0, 0, 0, 0]]))
    chunk.eval()
    chunk[1].see(torch.zeros(3, 4))
    got = meter.collect(num_microbatches=2, device=torch.device("cpu"))
    assert got.expert_load == [[0.75, 0.25, 0, 0], [0.25] * 4]
    assert got.router_entropy == pytest.approx([0.75 * 1.3862943, 0.0])
    assert got.aux_loss == 1.5 and got.z_loss is None
    assert values.tolist() == [0.0, 0.0] and chunk[0].token_counts is None
    again = meter.collect(num_microbatches=2, device=torch.device("cpu"))
    assert again.expert_load == [[0.0] * 4] * 2 and again.aux_loss is None


def test_a_full_disk_costs_reports_and_not_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(Sink):
        def report(self, report) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    sink, view = Collect(), trainer()
    reporter = Reporter(log_interval=1, sinks=[Full(), sink])
    with terminal.speaking(log_to_stdout=True):
        run(reporter, view, range(1, 3))
        reporter.on_train_end(view)
    assert sink.calls == [(1, 1), (2, 1), "closed"]
    assert capsys.readouterr().out == (
        "warning: Full lost a report: [Errno 28] No space left on device\n"
    )
