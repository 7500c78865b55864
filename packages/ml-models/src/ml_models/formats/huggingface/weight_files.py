"""Which files of a folder hold the weights, and all tensors in them.

```
model.safetensors                      all of them
model-00001-of-00003.safetensors ...   shards; model.safetensors.index.json says what lies where
pytorch_model.bin, pytorch_model-...   the same in torch's format, read where no safetensors are
NAME.safetensors                       any other name, where it is the only set of weights
```
Shards are read without an index if none is missing. Two sets of weights of the same kind are
refused, as nothing tells which of them is stale.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch

from ml_models.errors import WeightError
from ml_models.files.json_files import read_json
from ml_models.files.placeholders import placeholder
from ml_models.formats.huggingface.names import is_buffer
from ml_models.formats.huggingface.refusals import explain_folder, listing
from ml_models.formats.huggingface.torch_files import read_torch_file
from ml_models.weights.boxes import row_bands, volume
from ml_models.weights.listed import ListedTensor
from ml_models.weights.safetensors import read_header

USUAL = {".safetensors": "model", ".bin": "pytorch_model"}
"""Suffix -> the usual name of the file, in order of preference."""
WHOLE_MODELS = (*USUAL.values(), "consolidated")
"""Beginnings of names of files that hold the same weights again; other files may hold anything."""
# variant is between the numbers and the suffix, as in model-00001-of-00002.fp16.safetensors.
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,5})-of-(?P<count>\d{1,5})(?P<variant>\.[\w-]+)?")
_COMPARED_ELEMENTS = 2**24
"""Of two tensors that are compared, in memory at a time."""


@dataclass(frozen=True)
class FileSet:
    """Files that make up one copy of the weights."""

    stem: str
    """model in model-00001-of-00003.safetensors."""
    files: tuple[str, ...]
    tensor_files: Mapping[str, str] | None = None
    """Tensor -> file, as the index says it."""
    note: str = ""
    """For the report."""

    def __str__(self) -> str:
        more = f" and {len(self.files) - 1} more files" if len(self.files) > 1 else ""
        return self.files[0] + more


def list_tensors(folder: Path) -> tuple[dict[str, ListedTensor], list[str]]:
    """All tensors of a folder by their names in the files, and notes on what was left out."""
    chosen, notes = choose_files(folder)
    tensors: dict[str, ListedTensor] = {}
    copies: list[tuple[str, ListedTensor]] = []
    for file in chosen.files:
        for name, tensor in _read(folder / file).items():
            indexed_in = chosen.tensor_files.get(name) if chosen.tensor_files is not None else None
            if chosen.tensor_files is not None and indexed_in is None and not is_buffer(name):
                raise WeightError(
                    f"{folder / file}: it holds {name}, which the index does not say; if the index "
                    "is of other files, remove it: the shards are read without it."
                )
            # A tensor may be in several shards. The index names the shard that counts; the copies
            # are compared with it below, once all shards are listed.
            if name in tensors or (indexed_in is not None and indexed_in != file):
                copies.append((name, tensor))
            else:
                tensors[name] = tensor
    for name, copy in copies:
        if name in tensors:
            _refuse_other(name, tensors[name], copy)
    if copies:
        notes.append(f"tensors that are in two files, with equal numbers: {len(copies)}")
    if lost := sorted(set(chosen.tensor_files or ()) - set(tensors)):
        raise WeightError(
            f"{folder}: the index names {lost[0]}, which its file does not hold; fetch the index "
            "and the shards from one source."
        )
    return tensors, notes


def _read(path: Path) -> dict[str, ListedTensor]:
    # The hub's cache has links; a broken one would be reported as a missing file.
    if path.is_symlink() and (reason := placeholder(path)) is not None:
        raise WeightError(f"{path}: {reason}.")
    return read_torch_file(path) if path.suffix == ".bin" else read_header(path)


def _refuse_other(name: str, tensor: ListedTensor, copy: ListedTensor) -> None:
    """Raise WeightError unless two tensors of the same name are equal to the bit."""
    if not same_numbers(tensor, copy):
        raise WeightError(
            f"{copy.path}: {name} differs from the one in {tensor.path.name}; shards of two models "
            "are mixed: fetch them from one source."
        )


def same_numbers(tensor: ListedTensor, copy: ListedTensor) -> bool:
    """Whether two tensors have the same dtype, shape and bits; read in blocks."""
    first, second = tensor.stored, copy.stored
    if first is None or second is None or (tensor.dtype, tensor.shape) != (copy.dtype, copy.shape):
        return False
    row = max(1, volume(first.shape[1:]))
    bands = row_bands(first.shape, max(1, _COMPARED_ELEMENTS // row))
    return all(torch.equal(first.read(box), second.read(box)) for box in bands)


def choose_files(folder: Path) -> tuple[FileSet, list[str]]:
    """The set of files that holds the weights, and notes. Raises WeightError.

    A set under the usual name comes first, safetensors before torch files.
    """
    if not folder.is_dir():
        raise WeightError(explain_folder(folder) or f"{folder}: no such folder.")
    sets = {suffix: _sets(folder, suffix) for suffix in USUAL}
    # Repositories publish the same weights in several formats: the usual name tells which files are
    # the model, and the rest is named in a note.
    for suffix, stem in USUAL.items():
        usual = [files for files in sets[suffix] if files.stem == stem]
        other_kind = suffix == ".safetensors" and bool(sets[".bin"])
        chosen = _usable(folder, stem, suffix, usual, other_kind=other_kind)
        if chosen is not None:
            copies = [
                files
                for files in (*sets[".safetensors"], *sets[".bin"])
                if files.stem != stem and files.stem.startswith(WHOLE_MODELS)
            ]
            notes = [chosen.note] if chosen.note else []
            notes += [f"{files}: not read, as {chosen.files[0]} is there" for files in copies]
            return chosen, notes
    others = sets[".safetensors"]
    if len(others) > 1:
        raise WeightError(
            f"{folder}: {' and '.join(map(str, others[:3]))} could each be the weights; rename the "
            "right one to model.safetensors, or move the others away."
        )
    if others:
        _refuse_missing(folder, others[0])
        return others[0], [f"the weights are {others[0]}"]
    raise WeightError(
        explain_folder(folder)
        or f"{folder}: neither model.safetensors nor pytorch_model.bin nor shards of them are "
        f"there; it holds {listing(folder) or 'nothing'}."
    )


def _sets(folder: Path, suffix: str) -> list[FileSet]:
    """The sets of files with a suffix; adapters and trainers' states are left out."""
    shards: dict[tuple[str, int], list[str]] = {}
    singles = []
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(suffix)
        # Other .bin files are no weights: training_args.bin, optimizer.bin, tokenizer files.
        unusual = suffix == ".bin" and not name.startswith(USUAL[suffix])
        if name == path.name or unusual or name.startswith(("adapter_", ".")):
            continue
        if match := _SHARD.fullmatch(name):
            key = (match["stem"] + (match["variant"] or ""), int(match["count"]))
            shards.setdefault(key, []).append(path.name)
        else:
            singles.append(FileSet(name, (path.name,)))
    return [*singles, *(FileSet(stem, tuple(files)) for (stem, _), files in shards.items())]


def _usable(
    folder: Path, stem: str, suffix: str, sets: list[FileSet], *, other_kind: bool
) -> FileSet | None:
    """The only whole set under the usual name; None without any.

    other_kind: there are files of the other suffix, so that an index without files is ignored.
    """
    path = folder / f"{stem}{suffix}.index.json"
    indexed = _read_index(path, suffix, bool(sets)) if path.is_file() else None
    if indexed is not None:
        present = [file for file in indexed.files if _is_there(folder / file)]
        # Sets that the index does not know: of another save, or what replaced the indexed files.
        apart = [files for files in sets if not set(files.files) <= set(indexed.files)]
        whole = [files for files in apart if not _missing(files)]
        if len(present) == len(indexed.files):
            sets = [indexed, *apart]
        elif not present and not whole and other_kind:
            return None  # the index was left behind when the files were replaced by the other kind
        elif present or not whole:
            lost = sorted(set(indexed.files) - set(present))
            raise WeightError(
                f"{path}: {len(lost)} of its {len(indexed.files)} files are not there "
                f"({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}); fetch them."
            )
        else:  # an index that a later save left behind
            note = f"{path.name}: not read, as none of its files is there"
            sets = [replace(files, note=note) for files in whole]
    if len(sets) > 1:
        raise WeightError(
            f"{folder}: two sets of weights, {sets[0]} and {sets[1]}; move the one that is stale "
            "out of the folder."
        )
    if sets:
        _refuse_missing(folder, sets[0])
    return sets[0] if sets else None


def _is_there(path: Path) -> bool:
    """Whether a path exists. A broken link counts: its reader explains what is wrong with it."""
    return path.is_file() or path.is_symlink()


def _read_index(path: Path, suffix: str, files_are_there: bool) -> FileSet:
    remove = "; remove it: the shards are read without it" if files_are_there else ""
    if (reason := placeholder(path)) is not None:
        raise WeightError(f"{path}: {reason}.")
    try:
        index = read_json(path)
    except WeightError as error:
        raise WeightError(f"{str(error).rstrip('.')}{remove}.") from error
    tensor_files = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(tensor_files, Mapping) or not tensor_files:
        raise WeightError(f"{path}: no weight_map, or an empty one{remove}.")
    for file in tensor_files.values():
        parts = PurePosixPath(file).parts if isinstance(file, str) else ()
        if not parts or ".." in parts or file.startswith("/") or "\\" in file:
            raise WeightError(f"{path}: it names {file!r}, which is no file of this folder.")
        if PurePosixPath(file).suffix not in USUAL:
            raise WeightError(f"{path}: it names {file!r}, which is no {suffix} file.")
    return FileSet(USUAL[suffix], tuple(sorted(set(tensor_files.values()))), tensor_files)


def _missing(files: FileSet) -> list[str]:
    """Names of shards that are not there, as the others' names count them."""
    matches = [_SHARD.fullmatch(PurePosixPath(file).stem) for file in files.files]
    first = matches[0]
    if first is None or files.tensor_files is not None:
        return []
    present = {int(match["number"]) for match in matches if match}
    digits, suffix = len(first["number"]), PurePosixPath(files.files[0]).suffix
    return [
        f"{first['stem']}-{number:0{digits}d}-of-{first['count']}{first['variant'] or ''}{suffix}"
        for number in _numbers(present, int(first["count"]))
    ]


def _numbers(present: set[int], count: int) -> list[int]:
    """Numbers of missing shards, which are counted from 0 where there is a shard 0, else from 1."""
    start = 0 if 0 in present else 1
    return [number for number in range(start, start + count) if number not in present]


def _refuse_missing(folder: Path, files: FileSet) -> None:
    if lost := _missing(files):
        raise WeightError(
            f"{folder}: {len(lost)} of {len(lost) + len(files.files)} shards are missing "
            f"({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}); fetch them."
        )
