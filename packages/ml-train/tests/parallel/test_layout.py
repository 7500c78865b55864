"""Which layouts are legal: each rule's message names the value, the rule and a way out."""

import os
import subprocess
import sys
from typing import Any

import pytest

from ml_models import registry
from ml_train.config.sections.parallel import ParallelSection
from ml_train.errors import LayoutError
from ml_train.parallel.layout import Layout, World, make_layout


def layout(world: int, *, micro: int = 1, batch: int | None = None, **fields: Any) -> Layout:
    return make_layout(
        ParallelSection(**fields),
        registry.get("grok1-40b").replace(num_layers=8),
        world_size=world,
        micro_batch_size=micro,
        global_batch_size=batch,
    )


def test_the_guides_layout() -> None:
    guide = layout(
        16,
        tensor_model_parallel_size=4,
        pipeline_model_parallel_size=2,
        expert_model_parallel_size=2,
        batch=128,
    )
    assert (guide.tp, guide.pp, guide.ep, guide.etp, guide.dp, guide.edp) == (4, 2, 2, 4, 2, 1)
    assert guide.sequence_parallel
    assert guide.num_microbatches == 64


def test_uneven_and_virtual_stages() -> None:
    uneven = layout(
        3,
        pipeline_model_parallel_size=3,
        decoder_first_pipeline_num_layers=2,
        decoder_last_pipeline_num_layers=2,
    )
    assert uneven.vp == 1
    virtual = layout(
        2,
        pipeline_model_parallel_size=2,
        num_layers_per_virtual_pipeline_stage=2,
        batch=4,
    )
    assert virtual.vp == 2


ILLEGAL: list[tuple[int, dict[str, Any], str]] = [
    (3, {"tensor_model_parallel_size": 3}, "tensor-model-parallel-size is 3; .*choose one of 1, 2"),
    (16, {"tensor_model_parallel_size": 16}, "num_query_groups, which is 8"),
    (3, {"expert_model_parallel_size": 3}, "expert-model-parallel-size is 3"),
    (3, {"expert_tensor_parallel_size": 5}, "--expert-tensor-parallel-size is 5; .*ffn_hidden"),
    (16, {"pipeline_model_parallel_size": 16}, "between 1 and the model's num_layers, which is 8"),
    (3, {"pipeline_model_parallel_size": 3}, "divides the model's 8 layers"),
    (6, {"tensor_model_parallel_size": 4}, "There are 6 processes; .*Start 8"),
    (2, {"expert_model_parallel_size": 8}, "There are 2 processes; .*ETP 1 x EP 8 x PP 1"),
    (1, {"num_layers_per_virtual_pipeline_stage": 1}, "there is one pipeline stage"),
    (1, {"decoder_first_pipeline_num_layers": 1}, "there is one pipeline stage"),
    (
        2,
        {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 3},
        "divides the 4 layers of a stage",
    ),
    (
        3,
        {"pipeline_model_parallel_size": 3, "decoder_first_pipeline_num_layers": 3},
        "leave 5 of 8 layers for 2 stages",
    ),
    (2, {"tensor_model_parallel_size": 2, "sequence_parallel": False}, "Drop the flag"),
    (2, {"batch": 3}, "global-batch-size is 3; .*data-parallel size 2 = 2"),
    (
        2,
        {
            "pipeline_model_parallel_size": 2,
            "num_layers_per_virtual_pipeline_stage": 2,
            "batch": 3,
        },
        "3 micro batches .*multiple of 2",
    ),
]


@pytest.mark.parametrize(("world", "fields", "message"), ILLEGAL, ids=[m for _, _, m in ILLEGAL])
def test_illegal_layouts(world: int, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        layout(world, **fields)


def test_world_from_the_environment() -> None:
    assert World.from_environment({}) == World(rank=0, size=1, local_rank=0)
    with pytest.raises(LayoutError, match="RANK is 4"):
        World.from_environment({"RANK": "4", "WORLD_SIZE": "4"})
    with pytest.raises(LayoutError, match="'x'"):
        World.from_environment({"RANK": "x"})


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ml_train.cli", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_illegal_layout_ends_at_once_on_every_rank_with_one_message() -> None:
    flags = ("pretrain", "--model", "grok1-tiny", "--tensor-model-parallel-size", "3")
    world = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    first, second = (command(*flags, RANK=rank, **world) for rank in "01")
    assert (first.returncode, second.returncode) == (2, 2)
    assert first.stderr.startswith("ml-train: error: --tensor-model-parallel-size is 3; it must")
    assert first.stderr.count("\n") == 1
    # Under a launcher rank 0's end takes the others along before they repeat it.
    assert second.stderr == first.stderr.replace("error:", "error (rank 1):")


def test_the_command_line() -> None:
    assert "pretrain" in command("--help").stdout
    unknown = command("pretend")
    assert unknown.returncode == 2
    assert "Unknown command 'pretend'. Known: pretrain," in unknown.stderr
    wrong = command("pretrain", "--trian-iters", "3")
    assert wrong.returncode == 2
    assert "Did you mean --train-iters?" in wrong.stderr
