"""What a rank sends to other stages, against what the schedule needs."""

from __future__ import annotations

import pytest

from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.planning.legality import layout_of
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.rank_plan import plan_rank

MICROBATCHES, LENGTH, WIDTH = 8, 32, 64
WORDS = (
    *("--model", "grok1-tiny", "--seq-length", str(LENGTH), "--bf16"),
    *("--model-override", "num_layers=4", f"hidden_size={WIDTH}"),
    *("--pipeline-model-parallel-size", "2", "--global-batch-size", str(MICROBATCHES)),
)


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        # The first stage sends its activations, and gets the gradients of them.
        ((), {"send": 1, "receive": 1}),
        # With two virtual stages it also gets the activations of its second part from the last
        # stage, and sends the gradients of them there.
        (("--num-layers-per-virtual-pipeline-stage", "1"), {"send": 3, "receive": 3}),
    ],
)
def test_messages_between_stages_are_those_of_the_schedule(
    words: tuple[str, ...], messages: dict[str, int]
) -> None:
    loaded = load_config(parse([*WORDS, *words]))
    layout = layout_of(loaded.config, loaded.model, 4)
    platform = MetaPlatform()
    platform.apply()
    with platform.context():
        plan = plan_rank(loaded.config, loaded.model, layout, 0, platform=platform)
    microbatches = MICROBATCHES // 2  # the other half is that of the other data-parallel rank
    between = [traffic for traffic in plan.traffic if traffic.parallelism == "pp"]
    assert {traffic.kind: traffic.calls for traffic in between} == {
        kind: number * microbatches for kind, number in messages.items()
    }
    assert {traffic.ranks for traffic in between} == {(0, 2)}
    message = LENGTH * WIDTH * 2
    assert all(traffic.message_bytes == traffic.calls * message for traffic in between)
