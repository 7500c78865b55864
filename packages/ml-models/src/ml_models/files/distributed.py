"""torch's distributed checkpoints: their pickles checked, `.metadata` read and written.

```
.metadata         pickle of torch's Metadata: key -> shape, chunks; (key, offsets) -> file, place
__R_N.distcp      a torch.save archive per chunk, one after the other
common.pt         torch.save of what is not sharded; metadata.json names the format
```
"""

import contextlib
import io
import json
import pathlib
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

from ml_models.errors import WeightError
from ml_models.files.allow_lists import DCP_METADATA, TORCH_OBJECTS
from ml_models.files.pickles import MAX_PICKLE_BYTES, AllowList, interpret
from ml_models.files.slices import open_slice
from ml_models.files.torch_zip import inspect_torch_zip

METADATA, COMMON, BACKEND = ".metadata", "common.pt", "metadata.json"
# What the module of a path's class is called under Python 3.13; Python 3.14 knows the name, too.
_PATHS_OF_3_13 = "pathlib._local"


class _RestrictedUnpickler(pickle.Unpickler):
    """The second lock behind the interpreter: the real classes, by the same allow-list."""

    def find_class(self, module: str, name: str) -> object:
        """A class on the list."""
        if f"{module}.{name}" not in DCP_METADATA:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class("pathlib" if module == _PATHS_OF_3_13 else module, name)


def metadata_pickle(metadata: dcp.Metadata) -> bytes:
    """The content of `.metadata`: it names no folder, so that every Python reads it.

    torch's own writers put the folder's path in it, under a name that depends on the Python.
    """
    return pickle.dumps(replace(metadata, storage_meta=dcp.StorageMeta()))


@contextlib.contextmanager
def paths_of_every_python() -> Iterator[None]:
    """In this context torch's own reader takes a `.metadata` that torch wrote under Python 3.13.

    An alias for the module of paths is known for that time. It is safe: it names what `pathlib`
    names, and check_distributed_checkpoint has seen which names of it the file mentions.
    """
    alias = None if sys.version_info >= (3, 13) else sys.modules.setdefault(_PATHS_OF_3_13, pathlib)
    try:
        yield
    finally:
        if alias is pathlib:
            del sys.modules[_PATHS_OF_3_13]


def load_metadata(folder: Path) -> dcp.Metadata:
    """`.metadata` of a distributed checkpoint, checked before it is unpickled. WeightError."""
    path = folder / METADATA
    if not path.is_file():
        raise WeightError(f"{folder}: no {METADATA}, so it is no distributed checkpoint.")
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise WeightError(f"{path}: larger than {MAX_PICKLE_BYTES} bytes; refused.")
    stream = path.read_bytes()
    # Checked and unpickled from the same bytes: the file may change in between.
    interpret(io.BytesIO(stream), str(path), DCP_METADATA)
    try:
        metadata = _RestrictedUnpickler(io.BytesIO(stream)).load()
    except Exception as error:
        raise WeightError(f"{path}: cannot be read ({error}).") from error
    tables = (getattr(metadata, name, None) for name in ("storage_data", "state_dict_metadata"))
    if not all(isinstance(table, dict) for table in tables):
        raise WeightError(f"{path}: it holds no list of tensors and files.")
    # The names are joined to the folder and opened, also by torch: they must stay in it.
    for info in metadata.storage_data.values():
        name = str(info.relative_path)
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise WeightError(f"{path}: it points outside the folder, to {name!r}; refused.")
    return metadata  # type: ignore[no-any-return]


def check_distributed_checkpoint(path: str | Path, allowed: AllowList = TORCH_OBJECTS) -> None:
    """Refuse a distributed checkpoint whose pickles ask for more than their allow-lists.

    Reads `.metadata`, `common.pt` and every object kept as pickle inside the .distcp files, which
    torch loads without restriction. WeightError names the file. megatron-core or torch may read
    the folder after this returns, unless `allowed` is more than TORCH_OBJECTS: a caller that gives
    RANK_FILE reads tensors alone.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise WeightError(f"{folder}: no such folder.")
    _check_backend(folder / BACKEND)
    metadata = load_metadata(folder)
    for index, info in metadata.storage_data.items():
        entry = metadata.state_dict_metadata.get(index.fqn)
        # What .metadata does not call a tensor, torch unpickles.
        if entry is None or isinstance(entry, dcp.BytesStorageMetadata):
            file = folder / info.relative_path
            if not file.is_file():
                raise WeightError(f"{file}: missing, though .metadata names it.")
            with open_slice(file, int(info.offset), int(info.length)) as stream:
                inspect_torch_zip(stream, f"{file} ({index.fqn})", allowed)
    common = folder / COMMON
    if common.is_file():
        with common.open("rb") as stream:
            inspect_torch_zip(stream, str(common), allowed)


def _check_backend(path: Path) -> None:
    """metadata.json, where it is there, names the format that is read here."""
    if not path.is_file():
        return
    try:
        named = json.loads(path.read_text(encoding="utf-8"))
        formats = (named["sharded_backend"], named.get("common_backend", "torch"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightError(f"{path}: damaged ({error}).") from error
    if formats != ("torch_dist", "torch"):
        raise WeightError(f"{path}: format {formats[0]}; only torch_dist is read.")


@dataclass
class MetadataBuilder:
    """Collects where the chunks of tensors were written, and writes what describes them."""

    _tensors: dict[str, dcp.TensorStorageMetadata] = field(default_factory=dict)
    _storage: dict[dcp.MetadataIndex, _StorageInfo] = field(default_factory=dict)

    def add_tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Announce a key."""
        self._tensors[name] = dcp.TensorStorageMetadata(
            properties=dcp.TensorProperties(dtype=dtype), size=torch.Size(shape), chunks=[]
        )

    def add_chunk(
        self, name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], info: _StorageInfo
    ) -> None:
        """A chunk that begins at `offsets` of its tensor, and its place on the disk."""
        chunk = dcp.ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))
        self._tensors[name].chunks.append(chunk)
        self._storage[dcp.MetadataIndex(name, offsets)] = info

    def write(self, folder: Path) -> None:
        """Put `.metadata`, metadata.json and an empty common.pt into `folder`."""
        metadata = dcp.Metadata(
            state_dict_metadata=dict(self._tensors),
            storage_data=self._storage,
        )
        (folder / METADATA).write_bytes(metadata_pickle(metadata))
        torch.save({}, folder / COMMON)
        backend = {
            "sharded_backend": "torch_dist",
            "sharded_backend_version": 1,
            "common_backend": "torch",
            "common_backend_version": 1,
        }
        (folder / BACKEND).write_text(json.dumps(backend), encoding="utf-8")
