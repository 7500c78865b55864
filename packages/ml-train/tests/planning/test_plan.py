"""The classes of ranks of a plan, and the size of a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

sys.path.insert(0, str(Path(__file__).parents[1]))
from token_files import write_tokens

from ml_train.cli import main
from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.planning.legality import layout_of
from ml_train.planning.plan import checkpoint_bytes, stages_to_build

RUN = (
    *("--model", "grok1-tiny", "--seq-length", "16", "--model-override", "vocab_size=1024"),
    *("hidden_size=32", "ffn_hidden_size=32", "num_experts=2"),
)


@pytest.mark.parametrize(("pp", "numbers"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (8, [1, 6, 1])])
def test_stages_are_built_once_per_kind(pp: int, numbers: list[int]) -> None:
    run = load_config(
        parse(
            [
                *("--model", "grok1-314b", "--model-override", "num_layers=24", "--bf16"),
                *("--pipeline-model-parallel-size", str(pp)),
            ]
        )
    )
    stages = stages_to_build(layout_of(run.config, run.model, pp))
    assert [number for _, _, number in stages] == numbers
    assert sum(numbers) == pp


@pytest.mark.parametrize("bf16", [False, True])
def test_a_checkpoint_has_the_planned_bytes(tmp_path: Path, bf16: bool) -> None:
    words = [*RUN, *(["--bf16"] if bf16 else [])]
    tokens = write_tokens(tmp_path / "tokens", lengths=[40] * 20)
    run = [*words, "--data-path", tokens, "--train-iters", "1", "--global-batch-size", "1"]
    assert main(["pretrain", *run, "--split", "1,0,0", "--save", str(tmp_path / "save")]) == 0
    folder = next((tmp_path / "save").glob("iter_*"))
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata.values()
    size = sum(
        entry.size.numel() * torch.empty((), dtype=entry.properties.dtype).element_size()
        for entry in stored
        if hasattr(entry, "properties")
    )
    loaded = load_config(parse(words))
    assert (
        checkpoint_bytes(loaded.config, loaded.model, layout_of(loaded.config, loaded.model, 1))
        == size
    )


def test_a_plan_leaves_nothing_to_the_next_model(tmp_path: Path) -> None:
    deep = ["--recipe", "grok1-tiny", "--device", "h100", "--model-override", "num_layers=6"]
    assert main(["plan", *deep, "--seq-length", "32"]) == 0
    words = [*RUN, "--mock-data", "--train-iters", "1", "--global-batch-size", "1"]
    assert main(["pretrain", *words]) == 0
