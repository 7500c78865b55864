"""A Hugging Face folder to change, and the proof that its weights are still read."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ml_models.conversion.open import open_source
from ml_models.formats.huggingface.source import HuggingFaceSource
from ml_models.weights.boxes import Box
from model_checks.references import DATA

LAYER = "model.layers.{}."
INDEX = "model.safetensors.index.json"


def copy_of_reference(folder: Path) -> Path:
    """config.json and model.safetensors of the small Grok-1 hf_a."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DATA / "hf_a" / name, folder)
    return folder


def weights() -> dict[str, Tensor]:
    """The reference's tensors, read by the safetensors library; a tied model's own 47."""
    tensors = load_file(DATA / "hf_a" / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    return tensors


def edit_config(folder: Path, *remove: str, **changes: object) -> None:
    """Set or remove keys of config.json."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in remove}))


def write(folder: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> None:
    """One file, by the safetensors library or by torch."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    if name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)


def shards(folder: Path, tensors: dict[str, Tensor], count: int = 3, *, index: bool) -> list[Path]:
    """The tensors in `count` files under the usual names, with an index or without."""
    names = sorted(tensors)
    paths, placed = [], {}
    for number in range(count):
        path = folder / f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[number::count]}
        save_file(part, path)
        placed.update(dict.fromkeys(part, path.name))
        paths.append(path)
    (folder / "model.safetensors").unlink(missing_ok=True)
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return paths


def read_whole(folder: Path) -> HuggingFaceSource:
    """Open a folder and compare every tensor with the reference, bit by bit."""
    source = open_source("huggingface", folder)
    assert isinstance(source, HuggingFaceSource)
    expected = weights()
    assert set(source.tensors) == set(expected)
    for name, tensor in expected.items():
        block = source.read(name, Box.whole(tuple(tensor.shape)))
        assert torch.equal(block, tensor), name
    return source
