"""The files of one checkpoint: one per TP, PP and EP rank, their pickles interpreted, not run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_models.errors import WeightError
from ml_models.files.pickles import RANK_FILE, inspect_torch_zip, mapping_of
from ml_models.formats.megatron.args import settings_of
from ml_models.formats.megatron.source import TRACKER
from ml_models.formats.megatron_ranks.layout import Layout, layout_of
from ml_models.weights.archives import TensorPlaces
from ml_models.weights.arrays import StoredTensor

FILE = "model_optim_rng.pt"
_RANK_FOLDER = re.compile(r"mp_rank_\d{2,}(_\d{3,}){0,2}")
_CHUNK = re.compile(r"model(\d*)")
EXTRA_STATE = "_extra_state"


@dataclass(frozen=True)
class RankFile:
    """One file: where it stands in the layout, and where its tensors lie."""

    path: Path
    tp: int
    pp: int
    ep: int
    settings: Mapping[str, Any]
    """The run's arguments."""
    iteration: Any
    chunks: tuple[Mapping[str, StoredTensor], ...]
    """One per virtual stage."""

    def label(self, chunk: int, name: str) -> str:
        """A tensor of this file, as the report names it."""
        inner = f"model{chunk}/" if len(self.chunks) > 1 else ""
        return f"{self.path.parent.name}/{inner}{name}"


def find_rank_folders(folder: Path) -> Path | None:
    """The folder that holds mp_rank_* folders: `folder`, or the one that its tracker names."""
    if _rank_folders(folder):
        return folder
    tracker = folder / TRACKER
    if not tracker.is_file():
        return None
    last = tracker.read_text(encoding="utf-8", errors="replace").strip()
    inner = folder / (f"iter_{int(last):07d}" if last.isdecimal() else "release")
    return inner if _rank_folders(inner) else None


def _rank_folders(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _RANK_FOLDER.fullmatch(path.name) and path.is_dir())


def read_ranks(folder: Path) -> tuple[Layout, list[RankFile]]:
    """All files of a checkpoint; WeightError if one is missing or does not belong to the others."""
    present = {path.name for path in _rank_folders(folder)}
    if not present:
        raise WeightError(f"{folder}: no mp_rank_ folders.")
    first = _open(folder / min(present) / FILE)
    layout = layout_of(first.settings, first.path)
    wanted = {
        _name(layout, tp, pp, ep): (tp, pp, ep)
        for pp in range(layout.pp)
        for ep in range(layout.ep)
        for tp in range(layout.tp)
    }
    says = f"{first.path} says {layout}"
    if missing := sorted(set(wanted) - present):
        raise WeightError(f"{folder}: {missing[0]} is missing, and {says}.")
    if extra := sorted(present - set(wanted)):
        raise WeightError(f"{folder}: {extra[0]} is superfluous, as {says}.")
    files = [_open(folder / name / FILE, *ranks) for name, ranks in wanted.items()]
    for file in files:
        _check_same_run(first, layout, file)
    return layout, files


def _name(layout: Layout, tp: int, pp: int, ep: int) -> str:
    name = f"mp_rank_{tp:02d}"
    name += f"_{pp:03d}" if layout.pp > 1 else ""
    return name + (f"_{ep:03d}" if layout.ep > 1 else "")


def _check_same_run(first: RankFile, layout: Layout, file: RankFile) -> None:
    if (found := layout_of(file.settings, file.path)) != layout:
        raise WeightError(f"{file.path}: it says {found}, {first.path} says {layout}.")
    if file.iteration != first.iteration:
        raise WeightError(
            f"{file.path}: of iteration {file.iteration}, {first.path} is of iteration "
            f"{first.iteration}; all ranks of one checkpoint have the same."
        )
    if len(file.chunks) != layout.vp:
        raise WeightError(
            f"{file.path}: {len(file.chunks)} model chunks, its args say {layout.vp} per stage."
        )


def _open(path: Path, tp: int = 0, pp: int = 0, ep: int = 0) -> RankFile:
    if not path.is_file():
        raise WeightError(f"{path}: missing.")
    with path.open("rb") as stream:
        value, archive = inspect_torch_zip(stream, str(path), RANK_FILE)
        top = mapping_of(value)
        if top is None or "args" not in top:
            raise WeightError(f"{path}: no checkpoint of Megatron's; it holds no args.")
        version = top.get("checkpoint_version")
        if version != 3.0:
            raise WeightError(f"{path}: checkpoint_version is {version}; 3.0 is read.")
        places = TensorPlaces(archive, stream, path)
        chunks = _chunks(top, places, path)
    settings = settings_of(top["args"], path)
    return RankFile(path, tp, pp, ep, settings, top.get("iteration"), chunks)


def _chunks(
    top: Mapping[Any, Any], places: TensorPlaces, path: Path
) -> tuple[Mapping[str, StoredTensor], ...]:
    found = {key for key in top if isinstance(key, str) and _CHUNK.fullmatch(key)}
    keys = ["model"] if found == {"model"} else [f"model{number}" for number in range(len(found))]
    if not found or found != set(keys):
        raise WeightError(f"{path}: no model in it, but {', '.join(map(str, top))}.")
    return tuple(_tensors(mapping_of(top[key]), places, path) for key in keys)


def _tensors(
    model: Mapping[Any, Any] | None, places: TensorPlaces, path: Path
) -> Mapping[str, StoredTensor]:
    if model is None:
        raise WeightError(f"{path}: its model is no table of tensors.")
    if "language_model" in model:
        raise WeightError(
            f"{path}: a model of Megatron's old kind (language_model); only those of "
            "--use-mcore-models are read."
        )
    found: dict[str, StoredTensor] = {}
    for name, value in model.items():
        if not isinstance(name, str) or name.endswith(EXTRA_STATE):
            continue
        stored = places.find(value)
        if stored is None:
            raise WeightError(
                f"{path}: {name} is no plain tensor of fp32, bf16 or fp16 whose numbers lie row "
                "by row; the model has no place for it."
            )
        stored.check()
        found[name] = stored
    return found


def identity_of(files: list[RankFile]) -> list[list[Any]]:
    """Files with size and time of change."""
    stats = [(file.path, file.path.stat()) for file in files]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
