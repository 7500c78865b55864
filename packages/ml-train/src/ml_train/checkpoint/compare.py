"""Two checkpoints, tensor by tensor, on one process; layouts may differ.

Tensors are read whole and one at a time, so that memory is that of the largest tensor twice.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from ml_models.files.distributed import paths_of_every_python
from ml_train.checkpoint.directory import integrity
from ml_train.checkpoint.run_state import RunDocument
from ml_train.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One tensor, or one JSON document, in both checkpoints."""

    key: str
    equal: bool
    """To the bit."""
    elements: int = 0
    differing: int = 0
    max_difference: float = 0.0
    """Largest absolute difference of an element."""
    relative_l2: float = 0.0
    """Norm of the difference over the norm of the first tensor."""
    note: str = ""


def compare(first: Path, second: Path) -> Iterator[Comparison]:
    """Every tensor of either checkpoint, then what the JSON documents say about the run."""
    in_first, in_second = _entries(first), _entries(second)
    for key in sorted({*in_first, *in_second}):
        if key not in in_first or key not in in_second:
            holder = first if key in in_first else second
            yield Comparison(key=key, equal=False, note=f"only in {holder}")
        elif in_first[key].size != in_second[key].size:
            note = f"shape {list(in_first[key].size)} and {list(in_second[key].size)}"
            yield Comparison(key=key, equal=False, note=note)
        else:
            tensors = read(first, key, in_first[key]), read(second, key, in_second[key])
            yield _compare(key, *tensors)
    yield _compare_documents("run state", _run(first), _run(second))
    if _layout(first) == _layout(second):
        states = [_document(folder, "random_states.json") for folder in (first, second)]
        yield _compare_documents("random states", *states)


def read(folder: Path, key: str, entry: TensorStorageMetadata) -> torch.Tensor:
    """One whole tensor of a checkpoint that has passed the check of its pickles."""
    tensor = torch.empty(tuple(entry.size), dtype=entry.properties.dtype)
    with paths_of_every_python():
        load({key: tensor}, storage_reader=FileSystemReader(str(folder)))
    return tensor


def _compare(key: str, first: torch.Tensor, second: torch.Tensor) -> Comparison:
    if first.dtype != second.dtype:
        return Comparison(key=key, equal=False, note=f"{first.dtype} and {second.dtype}")
    first, second = first.contiguous().reshape(-1), second.contiguous().reshape(-1)
    # As bytes: NaN equals NaN then, and 0.0 differs from -0.0.
    if torch.equal(first.view(torch.uint8), second.view(torch.uint8)):
        return Comparison(key=key, equal=True, elements=first.numel())
    difference = first.double() - second.double()
    return Comparison(
        key=key,
        equal=False,
        elements=first.numel(),
        differing=int((first != second).sum()),
        max_difference=float(difference.abs().max()),
        relative_l2=float(difference.norm() / first.double().norm().clamp(min=1e-300)),
    )


def _compare_documents(name: str, first: object, second: object) -> Comparison:
    note = ""
    if isinstance(first, dict) and isinstance(second, dict):
        differing = [name for name in {*first, *second} if first.get(name) != second.get(name)]
        facts = [f"{name}: {first.get(name)} and {second.get(name)}" for name in sorted(differing)]
        note = ", ".join(facts)
    return Comparison(key=name, equal=first == second, note=note)


def _entries(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Key -> dtype and shape of each tensor. Raises CheckpointError for a damaged checkpoint."""
    faults = integrity.faults(folder, checksums=False)
    if faults:
        raise CheckpointError(f"{folder} cannot be compared: {faults[0]}")
    with paths_of_every_python():
        entries = FileSystemReader(str(folder)).read_metadata().state_dict_metadata
    return {
        key: entry for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata)
    }


def _document(folder: Path, name: str) -> Any:  # JSON
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _run(folder: Path) -> dict[str, object] | None:
    document: RunDocument | None = _document(folder, "run_state.json")
    if document is None:
        return None
    return {**document["run"], **(document["optimizer"] or {}), **(document["schedule"] or {})}


def _layout(folder: Path) -> dict[str, int] | None:
    document: RunDocument | None = _document(folder, "run_state.json")
    return None if document is None else document["layout"]
