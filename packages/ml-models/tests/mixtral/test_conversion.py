"""Mixtral as transformers saves it: there and back, its numbers, its errors."""

import json
from pathlib import Path

import pytest
import torch
from model_checks.references import DATA
from model_checks.round_trip import there_and_back
from safetensors.torch import load_file, save_file

from ml_models.comparison import compare
from ml_models.conversion.open import open_source
from ml_models.errors import WeightError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mixtral, written by transformers, with its numbers in reference.safetensors."""
    folder = tmp_path_factory.mktemp("mixtral")
    config = transformers.MixtralConfig(
        vocab_size=96,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
        sliding_window=None,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).float()
    model.save_pretrained(folder)
    ids = torch.randint(0, 96, (2, 24))
    output = model(ids, labels=ids)
    reference = {"input_ids": ids, "logits": output.logits.detach(), "loss": output.loss.detach()}
    save_file({key: value.contiguous() for key, value in reference.items()}, folder / "ref")
    return folder


def test_there_and_back(saved: Path, tmp_path: Path) -> None:
    there_and_back(saved, tmp_path, transformers.MixtralForCausalLM)


def test_numbers(saved: Path) -> None:
    result = compare(open_source("huggingface", saved), load_file(saved / "ref"), 1e-4)
    assert result["passed"] and result["groups"]["loss"]["within"], result


def test_another_models_folder(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="ties them|missing"):
        open_source("huggingface", saved, name="grok1-tiny")
    with pytest.raises(WeightError, match="missing"):
        open_source("huggingface", DATA / "hf_a", name="mixtral-tiny")
    config = json.loads((saved / "config.json").read_text())
    for change in ({"sliding_window": 8}, {"hidden_act": "gelu"}, {"model_type": "llama"}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(WeightError):
            open_source("huggingface", tmp_path)
