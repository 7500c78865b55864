"""xAI's released checkpoint: ckpt-0/tensorNNNNN_000, one pickle per leaf of the haiku tree.

A quantized leaf is int8 `weight` [.., K, N] and bfloat16 `scales` [.., G, N]: rows
[g*K/G, (g+1)*K/G) of the weight are multiplied by scale row g (G is the size of the mesh's model
axis for the row-parallel weights). The product of an int8 and a bfloat16 is exact in fp32.
Only headers are unpickled, by an interpreter; the numbers are read block by block.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.files.allow_lists import XAI_SHARD
from ml_models.files.inert import Call, Name, Span
from ml_models.files.pickles import interpret
from ml_models.files.placeholders import placeholder
from ml_models.grok1 import weights as maps
from ml_models.grok1.config import Grok1Config
from ml_models.weights.arrays import StoredTensor
from ml_models.weights.boxes import Box
from ml_models.weights.maps import WeightMap, build_map
from ml_models.weights.source import TensorInfo, check_names

TYPES = {"f4": torch.float32, "i1": torch.int8, "f2": torch.float16}


@dataclass(frozen=True)
class InlineTensor:
    """A small array whose bytes stand in the pickle itself."""

    data: bytes
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self, box: Box) -> Tensor:
        """A copy of one block."""
        raw = {torch.float32: "<f4", torch.int8: "|i1", torch.bfloat16: "<u2"}[self.dtype]
        array = np.frombuffer(self.data, dtype=raw).reshape(self.shape)
        tensor = torch.from_numpy(np.array(array[tuple(slice(*axis) for axis in box)], order="C"))
        return tensor.view(torch.bfloat16) if self.dtype == torch.bfloat16 else tensor


Array = StoredTensor | InlineTensor


@dataclass(frozen=True)
class Leaf:
    """One leaf: fp32 values, or int8 values with their scales."""

    weight: Array
    scales: Array | None = None

    def read(self, box: Box) -> Tensor:
        """One block in fp32."""
        values = self.weight.read(box).float()
        if self.scales is None:
            return values
        rows, groups = self.weight.shape[-2], self.scales.shape[-2]
        per_group = rows // groups
        start, stop = box[-2]
        used = (start // per_group, (stop - 1) // per_group + 1)
        scales = self.scales.read(box.with_range(-2, used)).float()
        group = torch.arange(start, stop) // per_group - used[0]
        return values.mul_(scales.index_select(-2, group))


def leaf_names(model: Grok1Config) -> list[str]:
    """The leaves in the order of their file numbers: sorted as jax flattens nested dicts."""
    layers = sorted(str(layer) for layer in range(model.num_layers))
    first = [row.tensor for row in maps.XAI if "{layer}" not in row.tensor]
    block = [row.tensor for row in maps.XAI if "{layer}" in row.tensor]
    return first + [name.format(layer=layer) for layer in layers for name in block]


def read_leaf(path: Path) -> Leaf:
    """Interpret one shard's pickle; WeightError for anything but the two known kinds."""
    if path.exists() and (reason := placeholder(path)) is not None:
        raise WeightError(f"{path}: {reason}.")
    with path.open("rb") as file:
        value = interpret(file, str(path), XAI_SHARD)
    if isinstance(value, Call) and str(value.function) == "__main__.QuantizedWeight8bit":
        state = value.state
        if not isinstance(state, dict) or set(state) != {"weight", "scales"}:
            raise WeightError(f"{path}: a quantized leaf without weight and scales.")
        leaf = Leaf(_array(state["weight"], path), _array(state["scales"], path))
        _check_scales(leaf, path)
        return leaf
    array = _array(value, path)
    if array.dtype != torch.float32:
        raise WeightError(f"{path}: {array.dtype} without scales; such leaves are float32.")
    return Leaf(array)


def _check_scales(leaf: Leaf, path: Path) -> None:
    assert leaf.scales is not None
    weight, scales = leaf.weight, leaf.scales
    groups = scales.shape[-2] if len(scales.shape) >= 2 else 0
    good = (
        weight.dtype == torch.int8
        and scales.dtype == torch.bfloat16
        and len(weight.shape) == len(scales.shape) >= 2
        and weight.shape[:-2] == scales.shape[:-2]
        and weight.shape[-1] == scales.shape[-1]
        and groups > 0
        and weight.shape[-2] % groups == 0
    )
    if not good:
        raise WeightError(
            f"{path}: weight {list(weight.shape)} ({weight.dtype}) and scales "
            f"{list(scales.shape)} ({scales.dtype}) do not fit each other."
        )


def _array(value: Any, path: Path) -> Array:
    """numpy's pickled form: state (version, shape, dtype, fortran order, bytes)."""
    state = getattr(value, "state", None)
    if not isinstance(value, Call) or not str(value.function).endswith("._reconstruct"):
        raise WeightError(f"{path}: it holds something that is no array.")
    if not isinstance(state, tuple) or len(state) != 5:
        raise WeightError(f"{path}: an array without its data.")
    _, shape, kind, fortran, data = state
    dtype = _dtype(kind, path)
    if (
        fortran
        or not isinstance(shape, tuple)
        or not all(isinstance(n, int) and n > 0 for n in shape)
    ):
        raise WeightError(f"{path}: an array of a shape or order that the release does not use.")
    size = math.prod(shape) * dtype.itemsize
    length = data.length if isinstance(data, Span) else len(data) if isinstance(data, bytes) else -1
    if length != size:
        raise WeightError(f"{path}: {length} bytes for an array that needs {size}.")
    if isinstance(data, Span):
        return StoredTensor(path, data.offset, shape, dtype)
    return InlineTensor(data, shape, dtype)


def _dtype(kind: Any, path: Path) -> torch.dtype:
    if isinstance(kind, Call) and str(kind.function) == "numpy.dtype" and kind.arguments:
        code = kind.arguments[0]
        if isinstance(code, Name) and str(code) == "ml_dtypes.bfloat16":
            return torch.bfloat16
        order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "<"
        if isinstance(code, str) and code in TYPES and order in ("<", "|", "="):
            return TYPES[code]
    raise WeightError(f"{path}: an array of a dtype that the release does not use.")


class XaiSource:
    """The folder ckpt-0."""

    format = "xai"

    def __init__(self, folder: Path, model: ModelConfig) -> None:
        if not isinstance(model, Grok1Config):
            raise WeightError(f"{folder}: xAI's format holds Grok-1, not {model.architecture}.")
        self.notes: list[str] = []
        self.model: ModelConfig = model
        names = leaf_names(model)
        wanted = {f"tensor{number:05d}_000": name for number, name in enumerate(names)}
        found = {path.name for path in folder.glob("tensor*")} if folder.is_dir() else set()
        if not found:
            raise WeightError(f"{folder}: no tensorNNNNN_000 files; give the folder ckpt-0.")
        if found != set(wanted):
            odd = sorted(found ^ set(wanted))
            raise WeightError(
                f"{folder}: {len(found)} tensor files, {model.num_layers} layers make "
                f"{len(wanted)}; the first that is missing or superfluous is {odd[0]}."
            )
        self._leaves = {name: read_leaf(folder / file) for file, name in wanted.items()}
        self._paths = [folder / file for file in wanted]
        self.weights: WeightMap = build_map(maps.xai_rows(model), maps.shapes(model), model)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(tuple(leaf.weight.shape), torch.float32)
            for name, leaf in self._leaves.items()
        }
        check_names(str(folder), self.tensors, self.weights.tensor_shapes)

    def read(self, name: str, box: Box) -> Tensor:
        """One block, dequantized exactly."""
        return self._leaves[name].read(box)

    def identity(self) -> Any:
        """Files with size and time of change."""
        return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in self._paths]
