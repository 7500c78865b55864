"""What every format that weights are read from gives: names, shapes, dtypes, blocks."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.weights.maps import (
    Box,
    Shape,
    WeightMap,
    intersection,
    shape_of,
    to_theirs,
    volume,
)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a source: its shape, and the dtype its values have once read."""

    shape: Shape
    dtype: torch.dtype


class Source(Protocol):
    """A model's weights in one of the formats, opened and not yet read."""

    format: str
    model: ModelConfig
    weights: WeightMap
    tensors: Mapping[str, TensorInfo]
    notes: list[str]
    """What was left out or accepted, for the report."""

    def read(self, name: str, box: Box) -> Tensor:
        """One block of one of its tensors."""
        ...

    def identity(self) -> Any:
        """JSON that changes when the files do."""
        ...


def check_names(where: str, found: Mapping[str, TensorInfo], wanted: Mapping[str, Shape]) -> None:
    """Exactly the wanted tensors with the wanted shapes, or one sentence that names the others."""
    missing = sorted(set(wanted) - set(found))
    extra = sorted(set(found) - set(wanted))
    if missing:
        raise WeightError(f"{where}: {_count(missing, 'missing')}; the model needs them.")
    if extra:
        raise WeightError(
            f"{where}: {_count(extra, 'superfluous')}; the model has no place for them."
        )
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise WeightError(
                f"{where}: {name} is {list(found[name].shape)}, the configuration makes it "
                f"{list(shape)}; check head counts, sizes and vocabulary."
            )


def _count(names: list[str], what: str) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''} {what} ({shown})"


@dataclass
class Reader:
    """Reads blocks of our parameters from any source and counts what it takes from each tensor."""

    source: Source
    taken: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of the tensors that make up our parameter `name`; fp32 if they differ."""
        kinds = {
            self.source.tensors[piece.theirs].dtype for piece in self.source.weights.ours[name]
        }
        return kinds.pop() if len(kinds) == 1 else torch.float32

    def read(self, name: str, box: Box, dtype: torch.dtype | None = None) -> Tensor:
        """The block `box` of our parameter `name`."""
        whole: Tensor | None = None
        for piece in self.source.weights.ours[name]:
            shared = intersection(piece.ours_box, box)
            if shared is None:
                continue
            theirs = to_theirs(piece, shared)
            block = self.source.read(piece.theirs, theirs)
            self.taken[piece.theirs] += volume(theirs)
            if piece.transposed:
                block = block.transpose(-1, -2)
            block = block.reshape(shape_of(shared))
            if shared == box:
                return block.to(dtype or block.dtype)
            if whole is None:
                whole = torch.empty(shape_of(box), dtype=dtype or self.dtype(name))
            at = tuple(
                slice(start - base, stop - base)
                for (start, stop), (base, _) in zip(shared, box, strict=True)
            )
            whole[at] = block.to(whole.dtype)
        if whole is None:
            raise WeightError(f"{name}: no source tensor fills {box}.")
        return whole
