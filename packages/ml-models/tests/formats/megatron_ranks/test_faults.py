"""Faults of a per-rank checkpoint: one sentence each, and nothing is written."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from model_checks.legacy import arguments, change_file, guide

from ml_models.cli import main
from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.errors import WeightError


def change_tensor(path: Path, name: str, change: Any) -> None:
    """Write one rank's file again with another tensor; None removes it."""
    state = torch.load(path, weights_only=False)
    model = dict(state["model"])
    value = change(model.get(name))
    model = {**model, name: value} if value is not None else model
    if value is None:
        del model[name]
    change_file(path, model=model)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("decoder.layers.3.post_attn_norm.weight", "mp_rank_01_001_000"),
        ("decoder.layers.2.mlp.router.weight", "mp_rank_01_000_001"),
        ("decoder.layers.0.self_attention.linear_qkv.weight", "mp_rank_00_001_001"),
        ("embedding.word_embeddings.weight", "mp_rank_01_000_001"),
    ],
)
def test_copies_that_differ_are_named(name: str, where: str, tmp_path: Path) -> None:
    iteration = guide(tmp_path / "in", (2, 2, 2, 1))
    change_tensor(iteration / where / "model_optim_rng.pt", name, lambda value: value * 1.001)
    with pytest.raises(WeightError, match="differ by up to") as raised:
        convert(open_source("megatron", iteration), "megatron", tmp_path / "out")
    assert name in str(raised.value) and where in str(raised.value)
    assert not (tmp_path / "out").exists()


def missing_rank(iteration: Path) -> None:
    shutil.rmtree(iteration / "mp_rank_01_000_001")


def missing_file(iteration: Path) -> None:
    (iteration / "mp_rank_01_001_001" / "model_optim_rng.pt").unlink()


def superfluous_rank(iteration: Path) -> None:
    shutil.copytree(iteration / "mp_rank_00_000_000", iteration / "mp_rank_02_000_000")


def truncated(iteration: Path) -> None:
    path = iteration / "mp_rank_00_001_000" / "model_optim_rng.pt"
    path.write_bytes(path.read_bytes()[:-1000])


def old_format(iteration: Path) -> None:
    path = iteration / "mp_rank_00_000_000" / "model_optim_rng.pt"
    torch.save({"model": {}}, path, _use_new_zipfile_serialization=False)


def another_iteration(iteration: Path) -> None:
    change_file(iteration / "mp_rank_01_000_000" / "model_optim_rng.pt", iteration=4000)


def another_version(iteration: Path) -> None:
    change_file(iteration / "mp_rank_01_000_000" / "model_optim_rng.pt", checkpoint_version=1.0)


def another_layout(iteration: Path) -> None:
    args = arguments((4, 2, 2, 1), post_norm=True)
    change_file(iteration / "mp_rank_01_000_000" / "model_optim_rng.pt", args=args)


def extra_tensor(iteration: Path) -> None:
    path = iteration / "mp_rank_01_000_000" / "model_optim_rng.pt"
    change_tensor(path, "decoder.layers.0.mlp.shared.weight", lambda _: torch.ones(3))


def missing_tensor(iteration: Path) -> None:
    path = iteration / "mp_rank_01_001_000" / "model_optim_rng.pt"
    change_tensor(path, "decoder.layers.1.mlp.router.weight", lambda _: None)


def another_shape(iteration: Path) -> None:
    path = iteration / "mp_rank_01_001_000" / "model_optim_rng.pt"
    change_tensor(path, "decoder.layers.1.mlp.router.weight", lambda value: value[:3].clone())


def transposed_tensor(iteration: Path) -> None:
    path = iteration / "mp_rank_01_001_000" / "model_optim_rng.pt"
    change_tensor(path, "decoder.layers.1.mlp.router.weight", lambda value: value.T)


def no_model(iteration: Path) -> None:
    path = iteration / "mp_rank_00_000_000" / "model_optim_rng.pt"
    state = torch.load(path, weights_only=False)
    del state["model"]
    torch.save(state, path)


def classic_model(iteration: Path) -> None:
    path = iteration / "mp_rank_00_000_000" / "model_optim_rng.pt"
    change_file(path, model={"language_model": {}})


FAULTS = {
    missing_rank: r"mp_rank_01_000_001 is missing.*TP 2, PP 2, EP 2",
    missing_file: r"mp_rank_01_001_001/model_optim_rng\.pt: missing",
    superfluous_rank: r"mp_rank_02_000_000 is superfluous.*TP 2, PP 2, EP 2",
    truncated: r"mp_rank_00_001_000.*truncated",
    old_format: r"mp_rank_00_000_000.*before 1\.6",
    another_iteration: r"mp_rank_01_000_000.*iteration 4000.*mp_rank_00_000_000.*iteration 5000",
    another_version: r"checkpoint_version is 1\.0; 3\.0 is read",
    another_layout: r"mp_rank_01_000_000.*TP 4.*mp_rank_00_000_000.*TP 2",
    extra_tensor: r"superfluous.*mp_rank_01_000_000/decoder\.layers\.0\.mlp\.shared\.weight",
    missing_tensor: r"missing.*mp_rank_01_001_000/decoder\.layers\.1\.mlp\.router\.weight",
    another_shape: r"mp_rank_01_001_000/decoder\.layers\.1\.mlp\.router\.weight is \[3, 32\]",
    transposed_tensor: r"mp_rank_01_001_000.*router\.weight is no plain tensor",
    no_model: r"no model in it, but args",
    classic_model: r"language_model.*--use-mcore-models",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_one_sentence(
    fault: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    iteration = guide(tmp_path / "in", (2, 2, 2, 1))
    fault(iteration)
    with pytest.raises(WeightError, match=FAULTS[fault]) as raised:
        open_source("megatron", tmp_path / "in")
    assert "\n" not in str(raised.value)
    command = ["convert", "--from", "megatron", "--to", "megatron", "--input", str(iteration)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
