"""Names that wrappers left, tables that are no weights, and the tied output."""

from pathlib import Path

import pytest
import torch
from model_checks.hugging_face_folder import (
    LAYER,
    copy_of_reference,
    edit_config,
    read_whole,
    weights,
    write,
)
from torch import Tensor

from ml_models.conversion.open import open_source
from ml_models.errors import WeightError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of_reference(tmp_path / "in")


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module.", "policy.", "a.b."],
)
def test_a_prefix(folder: Path, prefix: str) -> None:
    tensors = {prefix + name: tensor for name, tensor in weights().items()}
    write(folder, {**tensors, prefix + "lm_head.weight": weights()["model.embed_tokens.weight"]})
    notes = read_whole(folder).notes
    assert any(f"without {prefix}" in note or prefix.strip(".") in note for note in notes)


def test_wrappers_inside_names(folder: Path) -> None:
    def wrapped(name: str) -> str:
        return name.replace("model.layers.0.", "model.layers.0._checkpoint_wrapped_module.")

    write(folder, {wrapped(name): tensor for name, tensor in weights().items()})
    assert any("without _checkpoint_wrapped_module" in note for note in read_whole(folder).notes)


def test_a_model_saved_without_its_head(folder: Path) -> None:
    write(folder, {name.removeprefix("model."): tensor for name, tensor in weights().items()})
    assert any("with model. in front" in note for note in read_whole(folder).notes)


def test_two_names_never_become_one(folder: Path) -> None:
    name = "model.norm.scale"
    write(folder, {**weights(), f"module.{name}": torch.ones(64)})
    with pytest.raises(WeightError, match=f"{name} and module.{name} are both {name}"):
        open_source("huggingface", folder)


def with_frequencies(base: float, dtype: torch.dtype, size: int = 16) -> dict[str, Tensor]:
    table = (1.0 / base ** (torch.arange(0, size, 2).float() / size)).to(dtype)
    names = [f"{LAYER.format(n)}attn.rotary_emb.inv_freq" for n in (0, 1)]
    return {**weights(), **{name: table.clone() for name in names}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tables_of_rope_are_left_out(folder: Path, dtype: torch.dtype) -> None:
    cached = {f"{LAYER.format(0)}attn.rotary_emb.cos_cached": torch.zeros(128, 16)}
    positions = {"model.embeddings.position_ids": torch.arange(8)}
    write(folder, {**with_frequencies(1e4, dtype), **cached, **positions})
    assert any(
        "left out, as the model computes" in note and "and 3 more" in note
        for note in read_whole(folder).notes
    )


@pytest.mark.parametrize(("base", "size"), [(1e6, 16), (1e4, 32)])
def test_tables_of_other_positions_are_refused(folder: Path, base: float, size: int) -> None:
    """The configuration's base would give other logits than the model that was trained."""
    write(folder, with_frequencies(base, torch.float32, size))
    with pytest.raises(WeightError, match="not the table of RoPE with base 10000 and head size 16"):
        open_source("huggingface", folder)


def test_a_tied_model_that_kept_the_outputs_name(folder: Path) -> None:
    tensors = weights()
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    write(folder, tensors)
    assert any("stored as lm_head.weight" in note for note in read_whole(folder).notes)


def test_an_untied_model_without_an_output(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=False)
    write(folder, weights())
    with pytest.raises(WeightError, match="set tie_word_embeddings to true"):
        open_source("huggingface", folder)
