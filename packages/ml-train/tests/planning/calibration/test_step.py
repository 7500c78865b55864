"""A step of a device with round figures: what adds up, and what micro batches repeat."""

from __future__ import annotations

import dataclasses

import pytest
from round_device import measured

from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.planning.calibration.step import MeasuredStep, measured_step, message_seconds
from ml_train.planning.legality import layout_of
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.meter import Collective

WORDS = (
    *("--model", "grok1-tiny", "--seq-length", "64", "--model-override", "vocab_size=1024"),
    *("hidden_size=64", "ffn_hidden_size=96", "num_layers=4"),
)
FIGURES = (measured(1), measured(2), measured(4))


def step(*words: str, world: int, figures: tuple[object, ...] = FIGURES) -> MeasuredStep:
    loaded = load_config(parse([*WORDS, *words]))
    layout = layout_of(loaded.config, loaded.model, world)
    platform = MetaPlatform()
    platform.apply()
    with platform.context():
        return measured_step(loaded.config, loaded.model, layout, figures, platform=platform)


def test_micro_batches_repeat_the_passes_and_not_the_update() -> None:
    single = step("--global-batch-size", "1", world=1)
    four = step("--global-batch-size", "4", world=1)
    assert four.computing == pytest.approx(4 * single.computing)
    assert four.update == pytest.approx(single.update, rel=0.01)
    assert single.messages == single.bubble == 0
    assert four.seconds == four.computing + four.messages + four.bubble + four.update


def test_a_pipeline_waits_for_its_other_stages_once_a_step() -> None:
    pipeline = ("--pipeline-model-parallel-size", "2")
    few = step(*pipeline, "--global-batch-size", "2", world=2)
    many = step(*pipeline, "--global-batch-size", "8", world=2)
    assert few.bubble == pytest.approx(many.bubble) and few.bubble > 0
    assert many.computing == pytest.approx(4 * few.computing)
    assert many.messages == pytest.approx(4 * few.messages) and few.messages > 0


def test_stages_that_share_cores_fill_the_pipeline_faster_than_they_run_together() -> None:
    words = ("--pipeline-model-parallel-size", "4", "--global-batch-size", "4")
    crowded = dataclasses.replace(FIGURES[2], host_seconds_per_kernel=1e-3)
    even = step(*words, world=4, figures=(*FIGURES[:2], FIGURES[2]))
    shared = step(*words, world=4, figures=(*FIGURES[:2], crowded))
    per_microbatch = even.computing / 4
    assert even.bubble == pytest.approx(3 * per_microbatch, rel=0.2)
    # With two stages at work the figures of two processes hold.
    assert shared.bubble < 3 * shared.computing / 4 * 0.5


def test_tensor_parallelism_divides_the_products_and_sends() -> None:
    whole = step("--global-batch-size", "1", world=1)
    halves = step("--global-batch-size", "1", "--tensor-model-parallel-size", "2", world=2)
    assert halves.computing < whole.computing
    assert halves.messages > 0


def test_a_message_takes_the_seconds_of_its_kind_in_a_group_of_its_size() -> None:
    slow = dataclasses.replace(FIGURES[1].messages[2]["send"], points=((1.0, 5.0),))
    messages = {2: {**FIGURES[1].messages[2], "send": slow}}
    figures = dataclasses.replace(FIGURES[1], messages=messages)

    def call(kind: str, num_bytes: int) -> Collective:
        return Collective(kind=kind, num_bytes=num_bytes, group="0", ranks=(0, 1), phase="forward")

    assert message_seconds([call("send", 1)], figures) == 5.0
    assert message_seconds([call("receive", 1)], figures) == 0.0
    assert message_seconds([call("all-reduce", 2_000_000)], figures) == pytest.approx(2e-3)
    assert message_seconds([call("broadcast", 2_000_000)], figures) == pytest.approx(2e-3)
