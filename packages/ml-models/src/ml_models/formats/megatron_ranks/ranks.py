"""The files of a checkpoint, one per TP, PP and EP rank: their pickles interpreted, never run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_models.architecture import Settings
from ml_models.errors import WeightError
from ml_models.files.allow_lists import RANK_FILE
from ml_models.files.inert import mapping_of
from ml_models.files.torch_zip import inspect_torch_zip
from ml_models.formats.megatron.args import settings_of
from ml_models.formats.megatron.source import TRACKER
from ml_models.formats.megatron_ranks.layout import Layout, layout_of
from ml_models.weights.archives import ArchivedTensors
from ml_models.weights.arrays import StoredTensor

FILE = "model_optim_rng.pt"
# mp_rank_TT, mp_rank_TT_PPP, mp_rank_TT_EEE or mp_rank_TT_PPP_EEE: the args tell which.
_RANK_FOLDER = re.compile(r"mp_rank_\d{2,}(_\d{3,}){0,2}")
# "model", or "model0", "model1", ... with virtual stages.
_CHUNK = re.compile(r"model(\d*)")
EXTRA_STATE = "_extra_state"


@dataclass(frozen=True)
class RankFile:
    """A file: its ranks in the layout, and where its tensors lie."""

    path: Path
    tp: int
    pp: int
    ep: int
    settings: Settings
    """The run's arguments."""
    iteration: object
    chunks: tuple[Mapping[str, StoredTensor], ...]
    """A table of tensors per virtual stage."""

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
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in entries if _RANK_FOLDER.fullmatch(path.name) and path.is_dir())


def read_ranks(folder: Path) -> tuple[Layout, list[RankFile]]:
    """All files of a checkpoint. Raises WeightError where a file is missing or of another run."""
    present = {path.name for path in _rank_folders(folder)}
    if not present:
        raise WeightError(f"{folder}: no mp_rank_ folders.")
    first = _open(folder / min(present) / FILE)
    layout = layout_of(first.settings, first.path)
    ranks_by_name = {
        _name(layout, tp, pp, ep): (tp, pp, ep)
        for pp in range(layout.pp)
        for ep in range(layout.ep)
        for tp in range(layout.tp)
    }
    statement = f"{first.path} says {layout}"
    if missing := sorted(set(ranks_by_name) - present):
        raise WeightError(f"{folder}: {missing[0]} is missing, and {statement}.")
    if extra := sorted(present - set(ranks_by_name)):
        raise WeightError(f"{folder}: {extra[0]} is superfluous, as {statement}.")
    files = [_open(folder / name / FILE, *ranks) for name, ranks in ranks_by_name.items()]
    for file in files:
        _check_same_run(first, layout, file)
    return layout, files


def _name(layout: Layout, tp: int, pp: int, ep: int) -> str:
    name = f"mp_rank_{tp:02d}"
    name += f"_{pp:03d}" if layout.pp > 1 else ""
    return name + (f"_{ep:03d}" if layout.ep > 1 else "")


def _check_same_run(first: RankFile, layout: Layout, file: RankFile) -> None:
    if (other := layout_of(file.settings, file.path)) != layout:
        raise WeightError(f"{file.path}: it says {other}, {first.path} says {layout}.")
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
        archived = ArchivedTensors(archive, stream, path)
        chunks = _chunks(top, archived, path)
    settings = settings_of(top["args"], path)
    return RankFile(path, tp, pp, ep, settings, top.get("iteration"), chunks)


def _chunks(
    top: Mapping[object, object], archived: ArchivedTensors, path: Path
) -> tuple[Mapping[str, StoredTensor], ...]:
    names = {key for key in top if isinstance(key, str) and _CHUNK.fullmatch(key)}
    keys = ["model"] if names == {"model"} else [f"model{number}" for number in range(len(names))]
    if not names or names != set(keys):
        raise WeightError(f"{path}: no model in it, but {', '.join(map(str, top))}.")
    return tuple(_tensors(mapping_of(top[key]), archived, path) for key in keys)


def _tensors(
    model: Mapping[object, object] | None, archived: ArchivedTensors, path: Path
) -> Mapping[str, StoredTensor]:
    if model is None:
        raise WeightError(f"{path}: its model is no table of tensors.")
    if "language_model" in model:
        raise WeightError(
            f"{path}: a model of Megatron's old kind (language_model); only those of "
            "--use-mcore-models are read."
        )
    tensors: dict[str, StoredTensor] = {}
    for name, value in model.items():
        if not isinstance(name, str) or name.endswith(EXTRA_STATE):
            continue
        stored = archived.find(value)
        if stored is None:
            raise WeightError(
                f"{path}: {name} is no plain tensor of fp32, bf16 or fp16 whose numbers lie row "
                "by row; the model has no place for it."
            )
        stored.check()
        tensors[name] = stored
    return tensors
