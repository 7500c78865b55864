"""Faults in a Hugging Face folder: one sentence each, and nothing is written."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from model_checks.references import DATA
from safetensors.torch import load_file, save_file

from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.errors import MlModelsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder to damage."""
    shutil.copytree(DATA / "hf_a", tmp_path / "in")
    return tmp_path / "in"


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, remove: str = "", add: str = "") -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(remove, None)
    if add:
        tensors[add] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")


def one_sentence(folder: Path, output: Path) -> str:
    with pytest.raises(MlModelsError) as error:
        convert(open_source("huggingface", folder), "megatron", output)
    assert not output.exists()
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_attention_heads": 8}, "check head counts"),
        ({"num_key_value_heads": 4}, "check head counts"),
        ({"num_attention_heads": 3}, "no multiple of 3 heads"),
        ({"num_experts": 4}, "superfluous"),
        ({"num_experts": 16}, "missing"),
        ({"vocab_size": 300}, "vocabulary"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"num_hidden_layers": 1}, "superfluous"),
        ({"architectures": ["LlamaForCausalLM"]}, "describes LlamaForCausalLM"),
        ({"architectures": None, "model_type": "mixtral"}, "no Mixtral config.json"),
        ({"max_attn_value": -1.0}, "attention_logit_cap"),
    ],
)
def test_a_wrong_configuration(folder: Path, changes: dict, says: str) -> None:
    edit_config(folder, **changes)
    assert says in one_sentence(folder, folder.parent / "out")


def test_wrong_tensors(folder: Path) -> None:
    name = "model.layers.1.moe_block.experts.3.linear_v.weight"
    edit_tensors(folder, remove=name)
    assert name in one_sentence(folder, folder.parent / "out")
    shutil.copy(DATA / "hf_a" / "model.safetensors", folder)
    edit_tensors(folder, add="model.layers.1.moe_block.shared.weight")
    assert "moe_block.shared" in one_sentence(folder, folder.parent / "out")
    shutil.copy(DATA / "hf_a" / "model.safetensors", folder)
    edit_tensors(folder, add="lm_head.weight")
    assert "ties them" in one_sentence(folder, folder.parent / "out")


@pytest.mark.parametrize("length", [0, 5, 100, 20_000, -1])
def test_a_truncated_file(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "model.safetensors" in one_sentence(folder, folder.parent / "out")


def test_headers_that_lie(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    for old, new in ((b'"F32"', b'"F99"'), (b"data_offsets", b"data_offzets"), (b"{", b"[")):
        header = data[8 : 8 + length].replace(old, new, 1)
        path.write_bytes(data[:8] + header + data[8 + length :])
        assert "model.safetensors" in one_sentence(folder, folder.parent / "out")
