"""Steps, a trainer and a run's metrics.jsonl as callbacks see and write them, without training."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from ml_models import registry
from ml_train.config.recipes import grok1_tiny
from ml_train.config.run import RunConfig
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.training.callbacks.files import JsonLinesSink
from ml_train.training.callbacks.reporter import Reporter, Sink
from ml_train.training.metrics import StepMetrics


def fake_step(iteration: int, layers: int = 4, experts: int = 8) -> StepMetrics:
    rng = random.Random(iteration)
    settled = 1 - math.exp(-iteration / 20)
    rows = []
    for layer in range(layers):
        raw = [1 + (1.2 - settled) * math.sin(2.1 * e + layer) for e in range(experts)]
        raw = [max(0.02, value + rng.gauss(0, 0.05)) for value in raw]
        rows.append([value / sum(raw) for value in raw])
    data, forward, backward = 0.02, 0.21 + rng.random() / 50, 0.42 + rng.random() / 40
    return StepMetrics(
        iteration=iteration,
        loss=6.1 + 5.7 * math.exp(-iteration / 18) + rng.gauss(0, 0.03),
        aux_loss=1.02 + 0.3 * (1 - settled),
        learning_rate=3e-3 * min(1, iteration / 5) * (0.55 + 0.45 * math.cos(iteration / 60 * 3.1)),
        grad_norm=1.1 + 2 * math.exp(-iteration / 6) + rng.random() / 4,
        tokens_per_second_per_device=330 + rng.gauss(0, 12),
        model_tflops_per_device=0.0171 + rng.gauss(0, 0.0006),
        memory_bytes=int(7.1e8 + 1e6 * min(iteration, 12)),
        expert_load=rows,
        router_entropy=[2.05 - 0.1 * layer * settled for layer in range(layers)],
        step_seconds=0.95,
        phase_seconds={
            "data": data,
            "forward": forward,
            "backward": backward,
            "communication": 0.13,
            "optimizer": 0.06,
        },
        consumed_samples=16 * iteration,
    )


def write_run(path: Path, *parts: range, total: int = 60) -> Path:
    """One start per range of steps; path is the metrics file."""
    config = grok1_tiny()
    config = replace(config, checkpoint=CheckpointSection(save=str(path.parent)))
    config = replace(config, training=replace(config.training, train_iters=total))
    module = SimpleNamespace(model_config=registry.get("grok1-tiny"))
    for steps in parts:
        view = SimpleNamespace(
            config=config, train_module=module, iteration=steps.start - 1, callbacks=[]
        )
        reporter = Reporter(log_interval=2, sinks=[JsonLinesSink(path)])
        reporter.on_train_start(view)
        for iteration in steps:
            view.iteration = iteration
            reporter.on_step_end(view, fake_step(iteration))
            if iteration % 20 == 0:
                reporter.on_validation_end(view, {"loss": fake_step(iteration).loss + 0.1})
                reporter.on_save(view, path.parent / f"iter_{iteration:07}")
        reporter.on_train_end(view)
    return path


def make_step(iteration: int, **changes) -> StepMetrics:
    values = {
        "iteration": iteration, "loss": 8.0 - iteration, "aux_loss": 1.5, "learning_rate": 1e-3,
        "grad_norm": 2.0, "tokens_per_second_per_device": 1000.0, "model_tflops_per_device": 0.01,
        "memory_bytes": 2**30, "expert_load": [[0.25, 0.75], [0.5, 0.5]], "step_seconds": 1.0,
        "router_entropy": [0.6, 0.7], "phase_seconds": {"forward": 0.4, "backward": 0.5},
        "consumed_samples": 8 * iteration,
    }  # fmt: skip
    return StepMetrics(**{**values, **changes})


def make_trainer(config: RunConfig | None = None, iteration: int = 0) -> SimpleNamespace:
    module = SimpleNamespace(model_config=registry.get("grok1-tiny"))
    return SimpleNamespace(
        config=config or grok1_tiny(), train_module=module, iteration=iteration, callbacks=[]
    )


def run_steps(callback, view, iterations, **changes) -> None:
    callback.on_train_start(view)
    for iteration in iterations:
        callback.on_step_start(view)
        view.iteration = iteration
        callback.on_step_end(view, make_step(iteration, **changes))


class Collect(Sink):
    def __init__(self) -> None:
        self.calls: list = []

    def report(self, report) -> None:
        self.calls.append((report.iteration, report.num_steps))

    def event(self, iteration, kind, text) -> None:
        self.calls.append((kind, text))

    def close(self) -> None:
        self.calls.append("closed")


def append(run: Path, **record) -> None:
    """Write a line to the metrics file of a run's folder."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
