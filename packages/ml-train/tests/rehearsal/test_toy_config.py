"""Layouts folded to a few processes keep their kinds; models keep their architecture."""

from __future__ import annotations

import pytest

from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.diagnosis.runs import words_of
from ml_train.errors import LayoutError
from ml_train.planning.legality import layout_of, words
from ml_train.rehearsal.toy_config import ToyJob, toy_job

TP, PP = "--tensor-model-parallel-size", "--pipeline-model-parallel-size"
EP, ETP = "--expert-model-parallel-size", "--expert-tensor-parallel-size"
VIRTUAL = "--num-layers-per-virtual-pipeline-stage"


def folded(world: int, most: int, *flags: str) -> ToyJob:
    run = load_config(parse([*flags, "--global-batch-size", str(world * 8)]))
    layout = layout_of(run.config, run.model, world)
    return toy_job(run.config, run.model, layout, most_processes=most)


@pytest.mark.parametrize(
    ("world", "most", "flags", "layout"),
    [
        (64, 8, (TP, "8", PP, "4", EP, "2"), "TP2 PP2 EP2 ETP2 DP2"),
        (64, 4, (TP, "8", PP, "4", EP, "2"), "TP2 PP2 EP2 ETP1 DP1"),
        (64, 2, (TP, "8", PP, "4", EP, "2"), "TP2 PP1 EP2 ETP1 DP1"),
        (64, 1, (TP, "8", PP, "4", EP, "2"), "TP1 PP1 EP1 ETP1 DP1"),
        (64, 4, (PP, "4", VIRTUAL, "2"), "TP1 PP2 VP2 EP1 ETP1 DP2"),
        (32, 8, (TP, "2", ETP, "1", EP, "4"), "TP2 PP1 EP2 ETP1 DP2"),
        (8, 2, (EP, "8"), "TP1 PP1 EP2 ETP1 DP2"),
        (8, 8, (), "TP1 PP1 EP1 ETP1 DP2"),
        (1, 8, (), "TP1 PP1 EP1 ETP1 DP1"),
    ],
)
def test_layouts_that_are_folded(
    world: int, most: int, flags: tuple[str, ...], layout: str
) -> None:
    assert words(folded(world, most, "--model", "grok1-314b", "--bf16", *flags).layout) == layout


@pytest.mark.parametrize("uneven", ["first", "last"])
def test_uneven_stages_stay_uneven(uneven: str) -> None:
    flag = f"--decoder-{uneven}-pipeline-num-layers"
    toy = folded(4, 2, "--model", "grok1-314b", PP, "4", flag, "4")
    assert words(toy.layout) == "TP1 PP2 EP1 ETP1 DP1"
    parallel = toy.config.parallel
    first, last = (
        parallel.decoder_first_pipeline_num_layers,
        parallel.decoder_last_pipeline_num_layers,
    )
    assert (first, last) == ((1, None) if uneven == "first" else (None, 1))


@pytest.mark.parametrize("name", ["grok1-314b", "grok1-40b-guide", "grok2-270b", "mixtral-8x7b"])
def test_the_command_line_of_a_toy_run_is_a_small_model_of_the_same_kind(name: str) -> None:
    toy = folded(16, 8, "--model", name, "--bf16", TP, "4", PP, "2", "--use-distributed-optimizer")
    again = load_config(parse(words_of(toy.config)))
    whole = load_config(parse(["--model", name]))
    assert type(again.model) is type(whole.model)
    assert again.model.num_layers == 2 and again.model.hidden_size == 64
    assert again.model.moe_router_topk == whole.model.moe_router_topk
    assert again.config.training.bf16 and again.config.optimizer.use_distributed_optimizer
    assert again.config.training.device == "cpu" and again.config.data.mock_data
    assert layout_of(again.config, again.model, toy.layout.world) == toy.layout


def test_nothing_of_the_users_is_written(tmp_path) -> None:
    folder = str(tmp_path)
    toy = folded(
        *(8, 2, "--model", "grok1-tiny", "--save", folder, "--load", folder),
        *("--tensorboard-dir", folder, "--router-logits-dir", folder, "--profile"),
        *("--metrics-file", f"{folder}/metrics.jsonl", "--save-interval", "2"),
    )
    assert folder not in " ".join(words_of(toy.config))


def test_no_process_is_too_few() -> None:
    with pytest.raises(LayoutError, match="--toy-processes"):
        folded(8, 0, "--model", "grok1-tiny")
