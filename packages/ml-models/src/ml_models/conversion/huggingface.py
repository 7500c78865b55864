"""Hugging Face folders: config.json and safetensors files, read without loading them.

A safetensors file is 8 bytes (length of the header, little-endian), the header (JSON: name ->
dtype, shape, begin and end in the data), and the data.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.conversion.arrays import StoredTensor
from ml_models.conversion.folder import read_json
from ml_models.conversion.maps import Box, Shape, WeightMap, build_map, volume
from ml_models.conversion.source import TensorInfo, check_names
from ml_models.errors import WeightError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors library
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file; WeightError when it is truncated or damaged."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 0 < length <= MAX_HEADER_BYTES:
                raise WeightError(f"{path}: not a safetensors file, or truncated.")
            text = file.read(length)
        if len(text) != length:
            raise WeightError(f"{path}: truncated inside its header.")
        header = json.loads(text)
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in DTYPES:
                raise WeightError(
                    f"{path}: {name} is {entry['dtype']}; weights are {', '.join(DTYPES)}."
                )
            begin, end = entry["data_offsets"]
            stored = StoredTensor(
                path, 8 + length + begin, tuple(entry["shape"]), DTYPES[entry["dtype"]]
            )
            if end - begin != stored.num_bytes or begin < 0:
                raise WeightError(f"{path}: the header gives {name} a wrong size.")
            stored.check()
            tensors[name] = stored
    except FileNotFoundError as error:
        raise WeightError(f"{path}: missing.") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise WeightError(f"{path}: its header is damaged ({error}).") from error
    return tensors


def list_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder: one model.safetensors, or those that the index names."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if not index.is_file():
        if not single.is_file():
            raise WeightError(f"{folder}: neither model.safetensors nor {index.name} is there.")
        return read_header(single)
    placed = read_json(index)
    placed = placed.get("weight_map") if isinstance(placed, Mapping) else None
    if not isinstance(placed, Mapping) or not placed:
        raise WeightError(f"{index}: no weight_map.")
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(placed.values())):
        if not isinstance(file, str) or "/" in file or "\\" in file:
            raise WeightError(f"{index}: it names {file!r}, which is no file of this folder.")
        for name, stored in read_header(folder / file).items():
            if placed.get(name) != file:
                raise WeightError(
                    f"{folder / file}: it holds {name}, which the index does not say."
                )
            tensors[name] = stored
    if lost := sorted(set(placed) - set(tensors)):
        raise WeightError(f"{index}: it names {lost[0]}, which its file does not hold.")
    return tensors


def read_config(folder: Path, variant: str | None = None) -> ModelConfig:
    """config.json as a model configuration; WeightError for another model's folder."""
    path = folder / "config.json"
    values = read_json(path)
    if not isinstance(values, dict):
        raise WeightError(f"{path}: not an object.")
    return config_of(values, str(path), variant)


def config_of(values: Mapping[str, Any], where: str, variant: str | None) -> ModelConfig:
    """A config.json by the first architecture that recognises it."""
    for entry in registry.architectures():
        hf_config = entry.hf_config()
        if hf_config.recognises(values):
            model: ModelConfig = hf_config.from_huggingface(values, where, variant)
            return model
    named = values.get("architectures") or [values.get("model_type", "nothing")]
    known = ", ".join(entry.name for entry in registry.architectures())
    raise WeightError(f"{where}: it describes {named[0]}; {known} can be converted.")


class HuggingFaceSource:
    """One folder, opened."""

    format = "huggingface"

    def __init__(
        self, folder: Path, model: ModelConfig | None = None, variant: str | None = None
    ) -> None:
        if not folder.is_dir():
            raise WeightError(f"{folder}: no such folder.")
        self.notes: list[str] = []
        self.model = model or read_config(folder, variant)
        maps = registry.architecture(self.model).weights()
        self.weights: WeightMap = build_map(
            maps.huggingface_rows(self.model), maps.shapes(self.model), self.model
        )
        self._stored = list_tensors(folder)
        self._drop_tied_copy(folder)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(stored.shape, stored.dtype) for name, stored in self._stored.items()
        }
        check_names(str(folder), self.tensors, self.weights.theirs_shapes)

    def _drop_tied_copy(self, folder: Path) -> None:
        """A tied lm_head.weight stored as well: accepted when it equals the embedding."""
        copy, original = self._stored.get(OUTPUT), self._stored.get(EMBEDDING)
        if self.model.untie_embeddings_and_output_weights or copy is None or original is None:
            return
        rows = max(1, 2**24 // max(1, volume(((0, 1), *((0, n) for n in original.shape[1:])))))
        same = copy.shape == original.shape and all(
            torch.equal(copy.read(box), original.read(box))
            for box in row_bands(original.shape, rows)
        )
        if not same:
            raise WeightError(
                f"{folder}: {OUTPUT} differs from {EMBEDDING} though the model ties them; "
                "set tie_word_embeddings to false if they are meant to differ."
            )
        del self._stored[OUTPUT]
        self.notes.append(f"{OUTPUT}: equal to {EMBEDDING}, which it repeats")

    def read(self, name: str, box: Box) -> Tensor:
        """One block of one tensor."""
        return self._stored[name].read(box)

    def identity(self) -> Any:
        """Files with size and time of change."""
        paths = sorted({stored.path for stored in self._stored.values()})
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def row_bands(shape: Shape, rows: int) -> list[Box]:
    """A tensor in blocks of `rows` rows."""
    rest = tuple((0, size) for size in shape[1:])
    return [
        ((start, min(start + rows, shape[0])), *rest) for start in range(0, shape[0], max(1, rows))
    ]


def header_bytes(tensors: Mapping[str, tuple[Shape, torch.dtype]]) -> bytes:
    """The header of a file that holds `tensors` in this order; padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, dtype) in tensors.items():
        size = volume(tuple((0, n) for n in shape)) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
