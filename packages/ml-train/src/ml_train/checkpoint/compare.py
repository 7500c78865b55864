"""Two checkpoints, tensor by tensor, on one process; layouts may differ.

Tensors are read whole and one at a time, so that memory is that of the largest tensor twice.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ml_train.checkpoint import integrity
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
    ours, theirs = _shapes(first), _shapes(second)
    for key in sorted({*ours, *theirs}):
        if key not in ours or key not in theirs:
            where = first if key in ours else second
            yield Comparison(key=key, equal=False, note=f"only in {where}")
        elif ours[key].size != theirs[key].size:
            note = f"shape {list(ours[key].size)} and {list(theirs[key].size)}"
            yield Comparison(key=key, equal=False, note=note)
        else:
            yield _compare(key, read(first, key, ours[key]), read(second, key, theirs[key]))
    yield _compare_documents("run state", _run(first), _run(second))
    if _layout(first) == _layout(second):
        states = [_document(folder, "random_states.json") for folder in (first, second)]
        yield _compare_documents("random states", *states)


def read(folder: Path, key: str, entry: Any) -> torch.Tensor:
    """One whole tensor of a checkpoint that has passed the check of its pickles."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    tensor = torch.empty(tuple(entry.size), dtype=entry.properties.dtype)
    load({key: tensor}, storage_reader=FileSystemReader(str(folder)), no_dist=True)
    return tensor


def _compare(key: str, first: torch.Tensor, second: torch.Tensor) -> Comparison:
    if first.dtype != second.dtype:
        return Comparison(key=key, equal=False, note=f"{first.dtype} and {second.dtype}")
    one, two = (each.contiguous().reshape(-1) for each in (first, second))
    if torch.equal(one.view(torch.uint8), two.view(torch.uint8)):
        return Comparison(key=key, equal=True, elements=one.numel())
    difference = one.double() - two.double()
    return Comparison(
        key=key,
        equal=False,
        elements=one.numel(),
        differing=int((one != two).sum()),
        max_difference=float(difference.abs().max()),
        relative_l2=float(difference.norm() / one.double().norm().clamp(min=1e-300)),
    )


def _compare_documents(name: str, first: Any, second: Any) -> Comparison:
    note = ""
    if isinstance(first, dict) and isinstance(second, dict):
        differing = [k for k in {*first, *second} if first.get(k) != second.get(k)]
        note = ", ".join(f"{k}: {first.get(k)} and {second.get(k)}" for k in sorted(differing))
    return Comparison(key=name, equal=first == second, note=note)


def _shapes(folder: Path) -> dict[str, Any]:
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    faults = integrity.faults(folder, checksums=False)
    if faults:
        raise CheckpointError(f"{folder} cannot be compared: {faults[0]}")
    entries = FileSystemReader(str(folder)).read_metadata().state_dict_metadata
    return {key: entry for key, entry in entries.items() if hasattr(entry, "size")}


def _document(folder: Path, name: str) -> Any:
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _run(folder: Path) -> Any:
    document = _document(folder, "run_state.json")
    return document and {**document["run"], **(document["optimizer"] or {}), **document["schedule"]}


def _layout(folder: Path) -> Any:
    document = _document(folder, "run_state.json")
    return document and document["layout"]
