"""The callbacks that a configuration asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ml_train.config.run import RunConfig
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.config.sections.logging import LoggingSection
from ml_train.training.callbacks.defaults import default_callbacks
from ml_train.training.callbacks.profile import Profiler


def test_default_callbacks_follow_the_configuration(tmp_path: Path) -> None:

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
