"""Folders that are not read say what they hold and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_checks.hugging_face_folder import (
    copy_of_reference,
    edit_config,
    read_whole,
    weights,
    write,
)
from model_checks.references import DATA
from safetensors.torch import save_file

from ml_models.conversion.open import convert_command, guess_format, open_source
from ml_models.errors import WeightError

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 4932877432\n"
)
NAME = "model.layers.0.attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of_reference(tmp_path / "in")


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(POINTER)


def pointer_of_torch(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text(POINTER)


def pointer_as_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(POINTER)


def empty_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def web_page(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<!DOCTYPE html><html>Sign in</html>" * 9)


def adapter(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    values = {"base_model_name_or_path": "mistralai/Mixtral-8x7B-v0.1", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file(
        {"base_model.model.x.lora_A.weight": torch.zeros(2)}, folder / "adapter_model.safetensors"
    )


def adapters_tensors(folder: Path) -> None:
    write(folder, {f"base_model.model.{NAME[:-7]}.lora_A.weight": torch.zeros(2, 2)})


def fp8(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "fp8"})
    narrow = {NAME: weights()[NAME].to(torch.float8_e4m3fn)}
    write(folder, {**weights(), **narrow, f"{NAME}_scale_inv": torch.ones(1)})


def fp8_without_a_word(folder: Path) -> None:
    write(folder, {**weights(), NAME: weights()[NAME].to(torch.float8_e4m3fn)})


def awq(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "awq", "bits": 4})
    tensors = weights()
    del tensors[NAME]
    for part in ("qweight", "qzeros", "scales"):
        tensors[NAME.replace("weight", part)] = torch.zeros(4, 4, dtype=torch.int32)
    write(folder, tensors)


def integers(folder: Path) -> None:
    write(folder, {**weights(), NAME: weights()[NAME].to(torch.int8)})


def mistrals(folder: Path) -> None:
    names = {
        "tok_embeddings.weight": torch.zeros(2, 2),
        "layers.0.attention.wq.weight": torch.ones(2),
    }
    write(folder, names, "consolidated.safetensors")
    (folder / "config.json").rename(folder / "params.json")


def publishers(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.00.pth")


def gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "grok-q4_k_m.gguf")


def deepspeed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "zero_to_fp32.py").write_text("")
    (folder / "global_step10").mkdir()


def subfolders(folder: Path) -> None:
    (folder / "checkpoint-10").mkdir()
    (folder / "model.safetensors").rename(folder / "checkpoint-10" / "model.safetensors")


def pointer_as_config(folder: Path) -> None:
    (folder / "config.json").write_text(POINTER)


def fused_experts(folder: Path) -> None:
    write(folder, {"model.layers.0.mlp.experts.gate_up_proj": torch.zeros(2, 2)})


def columns_first(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    turned = {NAME: weights()[NAME].t().contiguous().t()}
    torch.save({**weights(), **turned}, folder / "pytorch_model.bin")


def tokenizer_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "tokenizer.model")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (pointer, ("a pointer of Git LFS", "4,932,877,432 bytes", "git lfs pull")),
        (pointer_of_torch, ("pytorch_model.bin: a pointer of Git LFS", "git lfs pull")),
        (pointer_as_index, ("index.json: a pointer of Git LFS", "git lfs pull")),
        (pointer_as_config, ("config.json: a pointer of Git LFS", "git lfs pull")),
        (fused_experts, ("gate_up_proj", "save_original_format=True")),
        (columns_first, (NAME, "do not lie row by row", "save_pretrained")),
        (empty_file, ("model.safetensors: empty", "fetch it again")),
        (web_page, ("a web page", "fetch the file again")),
        (adapter, ("an adapter of mistralai/Mixtral-8x7B-v0.1", "merge_and_unload")),
        (adapters_tensors, ("lora_A", "merge_and_unload")),
        (fp8, ("quantized with fp8", f"{NAME} is F8_E4M3", "unquantized folder")),
        (fp8_without_a_word, ("quantized (", "F8_E4M3")),
        (awq, ("quantized with awq", "qweight is I32")),
        (integers, ("quantized (", f"{NAME} is I8")),
        (mistrals, ("consolidated.safetensors", "Mistral's own format", "model-*.safetensors")),
        (publishers, ("consolidated.00.pth", "its publisher's own format")),
        (gguf, ("grok-q4_k_m.gguf", "llama.cpp's format")),
        (deepspeed, ("a checkpoint of DeepSpeed", "zero_to_fp32.py")),
        (subfolders, ("checkpoint-10: give that folder",)),
        (
            tokenizer_alone,
            ("neither model.safetensors nor", "it holds config.json, tokenizer.model"),
        ),
    ],
)
def test_what_is_there_and_what_to_do(
    folder: Path, change: Callable[[Path], None], parts: tuple[str, ...]
) -> None:
    change(folder)
    with pytest.raises(WeightError) as error:
        open_source("huggingface", folder)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and str(folder) in text
    for part in parts:
        assert part in text


def test_quantization_that_is_only_said(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "fp8"})
    assert any("quantization_config has no effect" in note for note in read_whole(folder).notes)


def test_an_adapter_beside_whole_weights(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"any")
    assert "the adapter in the folder is not merged into the weights" in read_whole(folder).notes


def test_no_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightError, match=r"a file; give the folder that holds it, .*/in\."):
        open_source("huggingface", folder / "model.safetensors")
    with pytest.raises(WeightError, match="no such folder"):
        open_source("huggingface", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightError, match="hf download hpcai-tech/grok-1 --local-dir grok-1"):
        open_source("huggingface", Path("hpcai-tech/grok-1"))


def test_pointers_in_xais_release(tmp_path: Path) -> None:
    """xai-org/grok-1 is a repository of Git LFS, too."""
    shutil.copytree(DATA / "xai_tiny_mesh1", tmp_path / "in")
    (tmp_path / "in" / "ckpt-0" / "tensor00003_000").write_text(POINTER)
    with pytest.raises(WeightError, match="tensor00003_000: a pointer of Git LFS"):
        open_source("xai", tmp_path / "in" / "ckpt-0")


def test_another_format_is_named(folder: Path) -> None:
    with pytest.raises(WeightError, match="holds Hugging Face's files, not xAI's.*--from hugging"):
        open_source("xai", folder, name="grok1-tiny")
    with pytest.raises(WeightError, match="--from huggingface"):
        open_source("megatron", folder)


def test_torch_files_and_adapters_are_hugging_faces(folder: Path) -> None:
    """ml-models compare and ml-train --load tell folders apart by this."""
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00001.bin")
    assert guess_format(folder) == "huggingface"
    command = convert_command(folder)
    assert command is not None
    assert command.startswith("ml-models convert --from huggingface --to megatron --input")
    assert str(folder) in command
    assert convert_command(folder.parent) is None
