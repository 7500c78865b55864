"""A folder of xAI's presharded files, opened and not yet read."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.grok2.config import Grok2Config
from ml_models.grok2.release.layout import (
    PATTERN,
    FileName,
    cut_axis,
    file_of,
    parse_file_name,
    presharded_map,
    slice_name,
    whole_map,
)
from ml_models.grok2.release.swaps import check_ranks
from ml_models.weights.arrays import StoredTensor
from ml_models.weights.boxes import Box
from ml_models.weights.listed import DTYPES, ListedTensor
from ml_models.weights.maps import WeightMap
from ml_models.weights.safetensors import read_header
from ml_models.weights.source import TensorInfo, check_names, identity_of

Files = Mapping[FileName, Mapping[str, ListedTensor]]
"""The tensors of each file, by their names in the file."""
_SHOWN = 3


class PreshardedSource:
    """A folder, opened. Raises WeightError, which names the file that is missing or mixed."""

    format = "presharded"

    def __init__(self, folder: Path, model: ModelConfig) -> None:
        if not isinstance(model, Grok2Config):
            raise WeightError(
                f"{folder}: xAI's presharded files hold Grok-2, and the configuration is of "
                f"{model.architecture}; put the release's config.json there."
            )
        self._folder = folder
        self.model: ModelConfig = model
        files = _read_files(folder)
        num_ranks = _count_ranks(folder, files)
        listed = _by_slice(folder, files)
        _check_widths(folder, listed, model, num_ranks)
        self.weights: WeightMap = presharded_map(model, num_ranks)
        self._refuse_missing(listed)
        shown = {name: TensorInfo(tensor.shape, torch.float32) for name, tensor in listed.items()}
        check_names(str(folder), shown, self.weights.tensor_shapes)
        self._stored = {name: _stored(name, tensor) for name, tensor in listed.items()}
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(stored.shape, stored.dtype) for name, stored in self._stored.items()
        }
        self.notes = check_ranks(folder, self._stored)

    def _refuse_missing(self, listed: Mapping[str, ListedTensor]) -> None:
        """Name the files that would hold what is missing."""
        missing = [name for name in self.weights.tensor_shapes if name not in listed]
        absent = sorted({file_of(name) for name in missing})
        absent = [file for file in absent if not (self._folder / str(file)).exists()]
        if absent:
            raise WeightError(
                f"{self._folder}: {_names(absent)} missing, with {len(missing)} tensors (first: "
                f"{missing[0]}); fetch the whole release."
            )

    def read(self, name: str, box: Box) -> Tensor:
        """A block of a tensor or slice."""
        return self._stored[name].read(box)

    def identity(self) -> object:
        """Files with size and time of change."""
        return identity_of(sorted({stored.path for stored in self._stored.values()}))


def _read_files(folder: Path) -> Files:
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        raise WeightError(f"{folder}: no {PATTERN} files; give the folder of the release.")
    files = {}
    for path in paths:
        name = parse_file_name(path.name)
        if name is None:
            raise WeightError(
                f"{path}: the name is not of the form pytorch_model-KKKKK-TP-RRR.safetensors (or "
                "-TP-common); rename the file, or move it away."
            )
        files[name] = read_header(path)
    return files


def _count_ranks(folder: Path, files: Files) -> int:
    """How many ranks the files are for. All kinds that are cut must have all of their files."""
    ranks: dict[int, list[int]] = defaultdict(list)
    for name in files:
        if name.rank >= 0:
            ranks[name.kind].append(name.rank)
    if not ranks:
        raise WeightError(
            f"{folder}: there are -TP-common files and no file of a rank; the experts are missing: "
            "fetch the whole release."
        )
    num_ranks = max(max(present) for present in ranks.values()) + 1
    lost = [
        FileName(kind, rank)
        for kind, present in sorted(ranks.items())
        for rank in range(num_ranks)
        if rank not in present
    ]
    if lost:
        raise WeightError(
            f"{folder}: {_names(lost)} missing; the other files are for {num_ranks} ranks: fetch "
            "the files, all from one source."
        )
    for kind in ranks:
        _refuse_other_tensors(folder, files, kind, num_ranks)
    return num_ranks


def _refuse_other_tensors(folder: Path, files: Files, kind: int, num_ranks: int) -> None:
    """All ranks' files of a kind hold the same tensors; else files were exchanged or mixed."""
    first = FileName(kind, 0)
    for rank in range(1, num_ranks):
        other = FileName(kind, rank)
        differing = sorted(set(files[first]) ^ set(files[other]))
        if differing:
            raise WeightError(
                f"{folder}: {first} and {other} hold different tensors (first: {differing[0]}); "
                "files were exchanged, or two releases are mixed: fetch them from one source."
            )


def _by_slice(folder: Path, files: Files) -> dict[str, ListedTensor]:
    """All tensors by their names in the weight map."""
    listed: dict[str, ListedTensor] = {}
    for file, tensors in files.items():
        for tensor, entry in tensors.items():
            is_cut = cut_axis(tensor) is not None
            if is_cut != (file.rank >= 0):
                what = "the experts alone are cut" if not is_cut else "the experts are cut by rank"
                raise WeightError(f"{folder / str(file)}: it holds {tensor}, and {what}.")
            name = slice_name(tensor, file.rank) if is_cut else tensor
            if name in listed:
                raise WeightError(
                    f"{folder / str(file)}: it holds {tensor}, which {listed[name].path.name} "
                    "holds too; two releases are mixed: fetch them from one source."
                )
            listed[name] = entry
    return listed


def _check_widths(
    folder: Path, listed: Mapping[str, ListedTensor], model: Grok2Config, num_ranks: int
) -> None:
    """The slices of all ranks together are as wide as the configuration says."""
    for tensor, shape in whole_map(model).tensor_shapes.items():
        axis = cut_axis(tensor)
        if axis is None:
            continue
        for rank in range(num_ranks):
            entry = listed.get(slice_name(tensor, rank))
            if entry is None or len(entry.shape) != len(shape):
                continue
            width = entry.shape[axis]
            if width * num_ranks != shape[axis]:
                needed = shape[axis] // width if width and shape[axis] % width == 0 else None
                fits = f"for {needed} ranks" if needed else "of another model"
                raise WeightError(
                    f"{folder / entry.path.name}: {tensor} has {width} of {shape[axis]} "
                    f"{'columns' if axis else 'rows'}, a slice {fits}, and the files are of "
                    f"{num_ranks}; files are missing, or two releases are mixed."
                )


def _stored(name: str, tensor: ListedTensor) -> StoredTensor:
    if tensor.stored is None:
        raise WeightError(
            f"{tensor.path}: {name} is {tensor.dtype}; weights are {', '.join(DTYPES)}: take the "
            "release's bfloat16 files."
        )
    return tensor.stored


def _names(files: list[FileName]) -> str:
    shown = ", ".join(map(str, files[:_SHOWN]))
    more = f" and {len(files) - _SHOWN} more files" if len(files) > _SHOWN else ""
    return f"{shown}{more} {'is' if len(files) == 1 else 'are'}"
