"""What every format that weights are read from gives: names, shapes, dtypes, blocks."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.weights.blocks import NotCoveredError, assemble
from ml_models.weights.boxes import Box, Shape
from ml_models.weights.maps import WeightMap

_SHOWN_NAMES = 5


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a source: its shape, and the dtype of its values once they are read."""

    shape: Shape
    dtype: torch.dtype


class Source(Protocol):
    """A model's weights in some format, opened and not yet read."""

    format: str
    model: ModelConfig
    weights: WeightMap
    tensors: Mapping[str, TensorInfo]
    notes: list[str]
    """What was left out or accepted, for the report."""

    def read(self, name: str, box: Box) -> Tensor:
        """A block of one of its tensors."""
        ...

    def identity(self) -> object:
        """JSON that changes when the files do."""
        ...


def identity_of(paths: list[Path]) -> list[tuple[str, int, int]]:
    """Files with their size and time of change, as a source's identity."""
    stats = [(path, path.stat()) for path in paths]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def check_names(where: str, tensors: Mapping[str, TensorInfo], needed: Mapping[str, Shape]) -> None:
    """Raise WeightError unless the tensors are those that are needed, with the same shapes."""
    missing = sorted(set(needed) - set(tensors))
    extra = sorted(set(tensors) - set(needed))
    if missing:
        raise WeightError(f"{where}: {_count(missing, 'missing')}; the model needs them.")
    if extra:
        raise WeightError(
            f"{where}: {_count(extra, 'superfluous')}; the model has no place for them."
        )
    for name, shape in needed.items():
        if tensors[name].shape != shape:
            raise WeightError(
                f"{where}: {name} is {list(tensors[name].shape)}, the configuration makes it "
                f"{list(shape)}; check head counts, sizes and vocabulary."
            )


def _count(names: list[str], what: str) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    if len(names) > _SHOWN_NAMES:
        shown += f" and {len(names) - _SHOWN_NAMES} more"
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''} {what} ({shown})"


@dataclass
class Reader:
    """Reads blocks of parameters from any source and counts what it takes from each tensor."""

    source: Source
    taken: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Tensor -> elements that were read from it."""

    def dtype(self, parameter: str) -> torch.dtype:
        """The dtype of the tensors that make up a parameter; fp32 if they differ."""
        pieces = self.source.weights.by_parameter[parameter]
        dtypes = {self.source.tensors[piece.tensor].dtype for piece in pieces}
        # fp32 holds bf16 and fp16 exactly; neither of them holds the other.
        return dtypes.pop() if len(dtypes) == 1 else torch.float32

    def read(self, parameter: str, box: Box, dtype: torch.dtype | None = None) -> Tensor:
        """The block `box` of a parameter; `dtype` None keeps the source's."""
        try:
            block = assemble(box, self._parts(parameter, box), dtype or self.dtype(parameter))
        except NotCoveredError as error:
            raise WeightError(f"{parameter}: no source tensor fills {tuple(box)}.") from error
        return block if dtype is None else block.to(dtype)

    def _parts(self, parameter: str, box: Box) -> Iterator[tuple[Box, Tensor]]:
        """Where each tensor's share of the block lies, and its numbers."""
        for piece in self.source.weights.by_parameter[parameter]:
            shared = piece.parameter_box.intersection(box)
            if shared is None:
                continue
            tensor_box = piece.to_tensor(shared)
            part = self.source.read(piece.tensor, tensor_box)
            # What is counted here, the audit compares with the tensor's size.
            self.taken[piece.tensor] += tensor_box.volume
            if piece.transposed:
                part = part.transpose(-1, -2)
            yield shared, part.reshape(shared.shape)
