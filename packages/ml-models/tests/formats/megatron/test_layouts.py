"""Converted folders and megatron-core: what one writes the other reads, in any layout."""

import json
from pathlib import Path

import pytest
import torch
from model_checks.group import Group
from model_checks.loading import load_and_step, save
from model_checks.references import DATA, config_of, reference_of
from model_checks.step import initial_weights
from safetensors.torch import load_file

from ml_models.config import ModelConfig
from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.formats.megatron.source import MegatronSource
from ml_models.megatron_core.lines import CORE_LINE
from ml_models.weights.boxes import Box
from ml_models.weights.sink import SinkOptions

LAYOUTS = [(2, 1, 2, 1), (1, 1, 1, 1), (1, 2, 2, 1), (2, 2, 1, 2), (2, 1, 1, 2)]


@pytest.mark.parametrize("sizes", LAYOUTS, ids=str)
def test_first_loss_equals_the_reference(
    sizes: tuple[int, int, int, int], tmp_path: Path, group4: Group
) -> None:
    small = SinkOptions(file_bytes=300_000, chunk_bytes=5_000)
    source = open_source("huggingface", DATA / "hf_c", variant="hpcai")
    convert(source, "megatron", tmp_path / "out", small)
    reference = reference_of("hf_c")
    config = config_of("hf_c", "gelu_erf")
    result = group4.run(load_and_step, tmp_path / "out", config, reference["input_ids"], sizes)[0]
    torch.testing.assert_close(result["loss"], reference["loss"], rtol=1e-5, atol=0)
    logits = result["logits"][..., : config.vocab_size]
    torch.testing.assert_close(logits, reference["logits"], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(CORE_LINE == "0.12", reason="0.12's writer does not know torch 2.13's format")
@pytest.mark.parametrize("sizes", [(2, 1, 2, 1), (1, 1, 4, 1)], ids=str)
def test_what_megatron_core_saved_is_read(
    sizes: tuple[int, int, int, int], tmp_path: Path, group4: Group
) -> None:
    config: ModelConfig = config_of("hf_b", "gelu_tanh")
    folder = tmp_path / "saved"
    folder.mkdir()
    group4.run(save, folder, config, sizes)
    (folder / "model_config.json").write_text(json.dumps(config.to_dict()))
    expected = group4.run(initial_weights, config, (1, 1, 1, 1))[0]
    source = MegatronSource(folder)
    assert any("pad the vocabulary" in note for note in source.notes)
    for key, info in source.tensors.items():
        result = source.read(key, Box.whole(info.shape))
        assert torch.equal(result, expected[key][: info.shape[0]]), key
    convert(source, "huggingface", tmp_path / "hf")
    convert(open_source("huggingface", tmp_path / "hf"), "megatron", tmp_path / "back")
    again = convert(MegatronSource(tmp_path / "back"), "huggingface", tmp_path / "hf2")
    assert again["num_target_tensors"] == len(load_file(tmp_path / "hf" / "model.safetensors"))
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == (
        tmp_path / "hf2" / "model.safetensors"
    ).read_bytes()
