"""Megatron's distributed checkpoints (torch_dist): the model part, in any parallel layout.

```
.metadata         pickle of torch's Metadata: key -> shape, chunks; (key, offsets) -> file, place
__R_N.distcp      one torch.save archive per chunk, one after the other
common.pt         torch.save of what is not sharded; metadata.json names the format
```
From 0.19 on megatron-core writes no common.pt: what is not sharded is the object `common_state` of
the first .distcp file, a torch.save of a list that holds it. common.pt goes first where both are
there, as in megatron-core.
The keys are ours (one per parameter and layer) or a stock Megatron model's, see stock.py.
No model is built. A chunk's numbers lie uncompressed in its archive and are read block by block.
"""

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ml_models import registry
from ml_models.architecture import Settings
from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.files.pickles import (
    RANK_FILE,
    check_distributed_checkpoint,
    inspect_torch_zip,
    load_metadata,
    mapping_of,
    open_slice,
)
from ml_models.formats.megatron.args import check_model, derive_model, settings_of
from ml_models.formats.megatron.model_config import MODEL_CONFIG, read_model_config
from ml_models.formats.megatron.names import is_stock, stock_map
from ml_models.weights.archives import TensorPlaces
from ml_models.weights.arrays import StoredTensor
from ml_models.weights.maps import Box, Shape, identity_map, intersection, shape_of
from ml_models.weights.source import TensorInfo, check_names

COMMON = "common.pt"
COMMON_OBJECT = "common_state/shard_0_1"
MODEL_PREFIXES = ("embedding.", "decoder.", "output_layer.")
VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")
TRACKER = "latest_checkpointed_iteration.txt"


def find_checkpoint(folder: Path) -> Path:
    """`folder` itself, or the iteration that its tracker file names."""
    if (folder / ".metadata").is_file():
        return folder
    tracker = folder / TRACKER
    if tracker.is_file():
        last = tracker.read_text(encoding="utf-8").strip()
        inner = folder / (f"iter_{int(last):07d}" if last.isdigit() else "release")
        if (inner / ".metadata").is_file():
            return inner
        raise WeightError(f"{tracker}: it names {last!r}, which is no checkpoint of this folder.")
    raise WeightError(
        f"{folder}: no checkpoint of Megatron's (no .metadata, no mp_rank_* folders, no {TRACKER})."
    )


class MegatronSource:
    """One checkpoint folder, its pickles checked before anything is read."""

    format = "megatron"

    def __init__(self, folder: Path, model: ModelConfig | None = None) -> None:
        if not folder.is_dir():
            raise WeightError(f"{folder}: no such folder.")
        self._folder = folder = find_checkpoint(folder)
        check_distributed_checkpoint(folder, RANK_FILE)
        self._metadata = load_metadata(folder)
        self.notes: list[str] = []
        names = set(self._metadata.state_dict_metadata)
        stock = is_stock(names)
        self.model = model or (self._args_model() if stock else read_model_config(folder))
        if stock and (settings := self._settings()) is not None:
            check_model(settings, self.model, self._path_of_common())
        shapes = registry.architecture(self.model).weights().shapes(self.model)
        self.weights = stock_map(shapes, names) if stock else identity_map(shapes)
        wanted = self.weights.theirs_shapes
        self.tensors: Mapping[str, TensorInfo] = self._list(wanted)
        check_names(str(folder), self.tensors, wanted)
        self._opened: dict[tuple[str, Shape], Any] = {}

    def _settings(self) -> Settings | None:
        """The args of a run of Megatron-LM, from what it keeps beside the tensors."""
        location = self._path_of_common()
        common = self._folder / COMMON
        if common.is_file():
            with common.open("rb") as stream:
                kept = inspect_torch_zip(stream, location, RANK_FILE)[0]
        elif (info := self._common_object()) is not None:
            path = self._folder / info.relative_path
            with open_slice(path, int(info.offset), int(info.length)) as stream:
                kept = inspect_torch_zip(stream, location, RANK_FILE)[0]
            kept = kept[0] if isinstance(kept, list) and kept else None
        else:
            return None
        value = mapping_of(kept)
        args = value.get("args") if value is not None else None
        return None if args is None else settings_of(args, location)

    def _common_object(self) -> Any:
        """Where `.metadata` says that the object is, or None."""
        places = self._metadata.storage_data
        return next((info for index, info in places.items() if index.fqn == COMMON_OBJECT), None)

    def _path_of_common(self) -> str:
        """What errors name."""
        info = None if (self._folder / COMMON).is_file() else self._common_object()
        if info is None:
            return str(self._folder / COMMON)
        return f"{self._folder / info.relative_path} ({COMMON_OBJECT})"

    def _args_model(self) -> ModelConfig:
        """The model of a stock checkpoint, from its own file or from the run's args."""
        settings = self._settings()
        if settings is None or (self._folder / MODEL_CONFIG).is_file():
            return read_model_config(self._folder)
        return derive_model(settings, self._path_of_common())

    def _list(self, shapes: Mapping[str, Shape]) -> dict[str, TensorInfo]:
        found, others = {}, set()
        for name, entry in self._metadata.state_dict_metadata.items():
            size = getattr(entry, "size", None)
            if size is None and ("._extra_state" in name or name == COMMON_OBJECT):
                continue  # of TransformerEngine, and what `_settings` reads: no weights
            if size is None or not name.startswith(MODEL_PREFIXES):
                others.add(name.split(".")[0].split("/")[0])
                continue
            shape = tuple(size)
            wanted = shapes.get(name)
            if name in VOCABULARY and wanted is not None and shape[0] > wanted[0]:
                self.notes.append(f"{name}: {shape[0] - wanted[0]} rows that pad the vocabulary")
                shape = (wanted[0], *shape[1:])
            found[name] = TensorInfo(shape, entry.properties.dtype)
        if others:
            self.notes.append(f"not part of the model, left out: {', '.join(sorted(others))}")
        return found

    def read(self, name: str, box: Box) -> Tensor:
        """One block, put together from the chunks that hold it."""
        whole: Tensor | None = None
        filled = 0
        for chunk in self._metadata.state_dict_metadata[name].chunks:
            start = tuple(chunk.offsets)
            location = tuple((a, a + n) for a, n in zip(start, chunk.sizes, strict=True))
            shared = intersection(location, box)
            if shared is None:
                continue
            inner = tuple((a - base, b - base) for (a, b), base in zip(shared, start, strict=True))
            block = self._chunk(name, start, tuple(chunk.sizes)).read(inner)
            if shared == box:
                return cast(Tensor, block)
            if whole is None:
                whole = torch.empty(shape_of(box), dtype=block.dtype)
            at = tuple(
                slice(a - base, b - base) for (a, b), (base, _) in zip(shared, box, strict=True)
            )
            whole[at] = block
            filled += block.numel()
        if whole is None or filled != whole.numel():
            raise WeightError(f"{self._folder}: the chunks of {name} do not cover it once.")
        return whole

    def _chunk(self, name: str, start: Shape, sizes: Shape) -> Any:
        key = (name, start)
        if key not in self._opened:
            if len(self._opened) > 4096:
                self._opened.clear()
            self._opened[key] = self._open(name, start, sizes)
        return self._opened[key]

    def _open(self, name: str, start: Shape, sizes: Shape) -> Any:
        from torch.distributed.checkpoint.metadata import MetadataIndex

        info = self._metadata.storage_data.get(MetadataIndex(name, start))
        if info is None:
            raise WeightError(f"{self._folder}/.metadata: no file for {name} at {list(start)}.")
        path = self._folder / info.relative_path
        if not path.is_file():
            raise WeightError(f"{path}: missing, though .metadata names it.")
        what = f"{path} ({name})"
        with open_slice(path, int(info.offset), int(info.length)) as stream:
            value, archive = inspect_torch_zip(stream, what)
            stored: Any = TensorPlaces(archive, stream, path, int(info.offset)).find(value)
            if stored is None:  # a view or a compressed archive: torch's own restricted reader
                stream.seek(0)
                stored = _Loaded(torch.load(stream, map_location="cpu", weights_only=True))
        if tuple(stored.shape) != sizes:
            raise WeightError(f"{what}: {list(stored.shape)}, .metadata says {list(sizes)}.")
        if isinstance(stored, StoredTensor):
            stored.check()
        return stored

    def identity(self) -> Any:
        """Files with size and time of change."""
        files = {str(info.relative_path) for info in self._metadata.storage_data.values()}
        paths = [self._folder / name for name in sorted(files)]
        return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]


class _Loaded:
    """A chunk that is held in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.shape = tensor, tensor.shape

    def read(self, box: Box) -> Tensor:
        return self.tensor[tuple(slice(*axis) for axis in box)].clone()


class MetadataBuilder:
    """Collects where chunks were written and makes `.metadata`."""

    def __init__(self) -> None:
        self._tensors: dict[str, tuple[Shape, torch.dtype, list[Any]]] = {}
        self._places: list[tuple[str, Shape, str, int, int]] = []

    def add_tensor(self, name: str, shape: Shape, dtype: torch.dtype) -> None:
        """Announce one key."""
        self._tensors[name] = (shape, dtype, [])

    def add_chunk(self, name: str, box: Box, file: str, offset: int, length: int) -> None:
        """One chunk and its place."""
        self._tensors[name][2].append(box)
        self._places.append((name, tuple(start for start, _ in box), file, offset, length))

    def write(self, folder: Path) -> None:
        """Put `.metadata`, metadata.json and an empty common.pt into `folder`."""
        from torch.distributed.checkpoint import metadata as dcp
        from torch.distributed.checkpoint.filesystem import _StorageInfo

        tensors: dict[str, Any] = {}
        for name, (shape, dtype, boxes) in self._tensors.items():
            chunks = [
                dcp.ChunkStorageMetadata(
                    offsets=torch.Size([start for start, _ in box]), sizes=torch.Size(shape_of(box))
                )
                for box in boxes
            ]
            tensors[name] = dcp.TensorStorageMetadata(
                properties=dcp.TensorProperties(dtype=dtype), size=torch.Size(shape), chunks=chunks
            )
        storage = {
            dcp.MetadataIndex(name, start): _StorageInfo(file, offset, length)
            for name, start, file, offset, length in self._places
        }
        metadata = dcp.Metadata(
            state_dict_metadata=tensors, storage_data=storage, storage_meta=dcp.StorageMeta()
        )
        stream = io.BytesIO()
        pickle.dump(metadata, stream)
        (folder / ".metadata").write_bytes(stream.getvalue())
        torch.save({}, folder / COMMON)
        backend = {
            "sharded_backend": "torch_dist",
            "sharded_backend_version": 1,
            "common_backend": "torch",
            "common_backend_version": 1,
        }
        (folder / "metadata.json").write_text(json.dumps(backend), encoding="utf-8")
