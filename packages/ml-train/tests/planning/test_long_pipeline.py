"""A rank of a long pipeline, from short steps, against the same rank with all its micro batches."""

from __future__ import annotations

import pytest

from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.planning.legality import layout_of
from ml_train.planning.long_pipeline import plan_any_rank
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.rank_plan import plan_rank

PROCESSES = 8
RUN = (
    *("--model", "grok1-tiny", "--seq-length", "64", "--global-batch-size", "16", "--bf16"),
    *("--pipeline-model-parallel-size", "4", "--tensor-model-parallel-size", "2"),
    *("--model-override", "vocab_size=1024", "hidden_size=64"),
)


@pytest.mark.parametrize("rank", [0, 2, 6])
def test_short_steps_give_the_rank_with_all_its_micro_batches(rank: int) -> None:
    run = load_config(parse(RUN))
    layout = layout_of(run.config, run.model, PROCESSES)
    platform = MetaPlatform()
    platform.apply()
    with platform.context():
        arguments = (run.config, run.model, layout, rank)
        whole = plan_rank(*arguments, platform=platform)
        short = plan_any_rank(*arguments, platform=platform)
    assert short.held == whole.held
    assert short.stage == whole.stage
    assert short.activations == pytest.approx(whole.activations, rel=0.01)
    assert short.update == pytest.approx(whole.update, rel=0.01)
    for part, full in zip(short.traffic, whole.traffic, strict=True):
        assert (part.kind, part.parallelism, part.ranks) == (
            full.kind,
            full.parallelism,
            full.ranks,
        )
        assert part.calls == pytest.approx(full.calls)
        assert part.message_bytes == pytest.approx(full.message_bytes)
