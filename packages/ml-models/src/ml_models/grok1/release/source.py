"""xAI's released checkpoint, read: ckpt-0/tensorNNNNN_000, a pickle per leaf of the haiku tree.

A quantized leaf is int8 `weight` [.., K, N] and bfloat16 `scales` [.., G, N]: rows
[g*K/G, (g+1)*K/G) of the weight are multiplied by scale row g (G is the size of the mesh's model
axis for the row-parallel weights). The product of an int8 and a bfloat16 is exact in fp32.
The pickles are interpreted and never run; the numbers are read block by block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.files.allow_lists import XAI_SHARD
from ml_models.files.inert import Call, Name, Span
from ml_models.files.pickles import interpret
from ml_models.files.placeholders import placeholder
from ml_models.grok1 import weights as tables
from ml_models.grok1.config import Grok1Config
from ml_models.weights.arrays import InlineTensor, StoredTensor
from ml_models.weights.boxes import Box, volume
from ml_models.weights.maps import WeightMap, build_map
from ml_models.weights.source import TensorInfo, check_names, identity_of

DTYPES = {"f4": torch.float32, "i1": torch.int8, "f2": torch.float16}
"""numpy's codes of the dtypes that a leaf may have, beside bfloat16."""

Array = StoredTensor | InlineTensor


@dataclass(frozen=True)
class Leaf:
    """A leaf: fp32 values, or int8 values with their scales."""

    weight: Array
    scales: Array | None = None

    def read(self, box: Box) -> Tensor:
        """A block in fp32."""
        values = self.weight.read(box).float()
        if self.scales is None:
            return values
        rows, groups = self.weight.shape[-2], self.scales.shape[-2]
        group_rows = rows // groups
        start, stop = box[-2]
        # Only the scale rows of the groups that the block touches are read.
        used = (start // group_rows, (stop - 1) // group_rows + 1)
        scales = self.scales.read(box.with_range(-2, used)).float()
        group = torch.arange(start, stop) // group_rows - used[0]
        return values.mul_(scales.index_select(-2, group))


def leaf_names(model: Grok1Config) -> list[str]:
    """The leaves in the order of their file numbers: sorted as jax flattens nested dicts."""
    layers = sorted(str(layer) for layer in range(model.num_layers))
    outer = [row.tensor for row in tables.XAI if "{layer}" not in row.tensor]
    inner = [row.tensor for row in tables.XAI if "{layer}" in row.tensor]
    return outer + [name.format(layer=layer) for layer in layers for name in inner]


def read_leaf(path: Path) -> Leaf:
    """Interpret a shard's pickle; WeightError for anything but the two known kinds."""
    if path.exists() and (reason := placeholder(path)) is not None:
        raise WeightError(f"{path}: {reason}.")
    with path.open("rb") as file:
        value = interpret(file, str(path), XAI_SHARD)
    if isinstance(value, Call) and str(value.function) == "__main__.QuantizedWeight8bit":
        state = value.state
        if not isinstance(state, dict) or set(state) != {"weight", "scales"}:
            raise WeightError(f"{path}: a quantized leaf without weight and scales.")
        weight, scales = _array(state["weight"], path), _array(state["scales"], path)
        _check_scales(weight, scales, path)
        return Leaf(weight, scales)
    array = _array(value, path)
    if array.dtype != torch.float32:
        raise WeightError(f"{path}: {array.dtype} without scales; such leaves are float32.")
    return Leaf(array)


def _check_scales(weight: Array, scales: Array, path: Path) -> None:
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


def _array(value: object, path: Path) -> Array:
    """numpy's pickled form: state (version, shape, dtype, fortran order, bytes)."""
    if not isinstance(value, Call) or not str(value.function).endswith("._reconstruct"):
        raise WeightError(f"{path}: it holds something that is no array.")
    if not isinstance(value.state, tuple) or len(value.state) != 5:
        raise WeightError(f"{path}: an array without its data.")
    _, shape, described, fortran, data = value.state
    dtype = _dtype(described, path)
    if (
        fortran
        or not isinstance(shape, tuple)
        or not all(isinstance(size, int) and size > 0 for size in shape)
    ):
        raise WeightError(f"{path}: an array of a shape or order that the release does not use.")
    needed = volume(shape) * dtype.itemsize
    length = len(data) if isinstance(data, (Span, bytes)) else -1
    if length != needed:
        raise WeightError(f"{path}: {length} bytes for an array that needs {needed}.")
    if isinstance(data, Span):
        return StoredTensor(path, data.offset, shape, dtype)
    return InlineTensor(data, shape, dtype)


def _dtype(described: object, path: Path) -> torch.dtype:
    """numpy's pickled dtype: a call with its code, whose state has the byte order."""
    if isinstance(described, Call) and str(described.function) == "numpy.dtype":
        code = described.arguments[0] if described.arguments else None
        if isinstance(code, Name) and str(code) == "ml_dtypes.bfloat16":
            return torch.bfloat16
        state = described.state
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
        if isinstance(code, str) and code in DTYPES and order in ("<", "|", "="):
            return DTYPES[code]
    raise WeightError(f"{path}: an array of a dtype that the release does not use.")


class XaiSource:
    """The folder ckpt-0."""

    format = "xai"

    def __init__(self, folder: Path, model: ModelConfig) -> None:
        if not isinstance(model, Grok1Config):
            raise WeightError(f"{folder}: xAI's format holds Grok-1, not {model.architecture}.")
        self.notes: list[str] = []
        self.model: ModelConfig = model
        leaves = {f"tensor{at:05d}_000": name for at, name in enumerate(leaf_names(model))}
        present = {path.name for path in folder.glob("tensor*")} if folder.is_dir() else set()
        if not present:
            raise WeightError(f"{folder}: no tensorNNNNN_000 files; give the folder ckpt-0.")
        if present != set(leaves):
            odd = sorted(present ^ set(leaves))
            raise WeightError(
                f"{folder}: {len(present)} tensor files, {model.num_layers} layers make "
                f"{len(leaves)}; the first that is missing or superfluous is {odd[0]}."
            )
        self._leaves = {name: read_leaf(folder / file) for file, name in leaves.items()}
        self._paths = [folder / file for file in leaves]
        self.weights: WeightMap = build_map(tables.XAI, tables.shapes(model), model)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(tuple(leaf.weight.shape), torch.float32)
            for name, leaf in self._leaves.items()
        }
        check_names(str(folder), self.tensors, self.weights.tensor_shapes)

    def read(self, name: str, box: Box) -> Tensor:
        """A block, dequantized exactly."""
        return self._leaves[name].read(box)

    def identity(self) -> object:
        """Files with size and time of change."""
        return identity_of(self._paths)
