"""Weights in Megatron's distributed checkpoints (torch_dist), read in any parallel layout.

The keys are megatron-core's names as ml_models writes them (one per parameter and layer), or those
of a stock Megatron model, see names.py. No model is built. A chunk's numbers lie uncompressed in
its archive and are read block by block.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.files.allow_lists import RANK_FILE
from ml_models.files.distributed import METADATA, check_distributed_checkpoint, load_metadata
from ml_models.files.slices import open_slice
from ml_models.files.torch_zip import inspect_torch_zip
from ml_models.formats.megatron.args import check_model, derive_model
from ml_models.formats.megatron.common import COMMON_OBJECT, location_of, read_settings
from ml_models.formats.megatron.model_config import MODEL_CONFIG, read_model_config
from ml_models.formats.megatron.names import is_stock, stock_map
from ml_models.weights.archives import ArchivedTensors
from ml_models.weights.arrays import LoadedTensor, StoredTensor
from ml_models.weights.blocks import NotCoveredError, assemble
from ml_models.weights.boxes import Box, Shape
from ml_models.weights.maps import WeightMap, identity_map
from ml_models.weights.source import TensorInfo, check_names, identity_of

MODEL_PREFIXES = ("embedding.", "decoder.", "output_layer.")
VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")
TRACKER = "latest_checkpointed_iteration.txt"
_MAX_OPENED = 4096
"""Chunks whose place is remembered: a block is often read from the chunk of the block before."""


def find_checkpoint(folder: Path) -> Path:
    """`folder` itself, or the iteration that its tracker file names."""
    if (folder / METADATA).is_file():
        return folder
    tracker = folder / TRACKER
    if tracker.is_file():
        last = tracker.read_text(encoding="utf-8").strip()
        inner = folder / (f"iter_{int(last):07d}" if last.isdigit() else "release")
        if (inner / METADATA).is_file():
            return inner
        raise WeightError(f"{tracker}: it names {last!r}, which is no checkpoint of this folder.")
    raise WeightError(
        f"{folder}: no checkpoint of Megatron's (no .metadata, no mp_rank_* folders, no {TRACKER})."
    )


class MegatronSource:
    """A checkpoint folder, its pickles checked before anything is read."""

    format = "megatron"

    def __init__(self, folder: Path, model: ModelConfig | None = None) -> None:
        if not folder.is_dir():
            raise WeightError(f"{folder}: no such folder.")
        self._folder = folder = find_checkpoint(folder)
        # RANK_FILE allows the trainers' own names, as nothing but tensors is unpickled afterwards.
        check_distributed_checkpoint(folder, RANK_FILE)
        self._metadata = load_metadata(folder)
        self.notes: list[str] = []
        keys = set(self._metadata.state_dict_metadata)
        stock = is_stock(keys)
        self.model = model or (self._stock_model() if stock else read_model_config(folder))
        # A checkpoint of ours needs no comparison: model_config.json was written with it.
        if stock and (settings := read_settings(folder, self._metadata)) is not None:
            check_model(settings, self.model, location_of(folder, self._metadata))
        shapes = registry.architecture(self.model).weights().shapes(self.model)
        self.weights: WeightMap = stock_map(shapes, keys) if stock else identity_map(shapes)
        self.tensors: Mapping[str, TensorInfo] = self._list(self.weights.tensor_shapes)
        check_names(str(folder), self.tensors, self.weights.tensor_shapes)
        self._opened: dict[tuple[str, Shape], StoredTensor | LoadedTensor] = {}

    def _stock_model(self) -> ModelConfig:
        """The model of a stock checkpoint, from its own file or from the run's args."""
        settings = read_settings(self._folder, self._metadata)
        if settings is None or (self._folder / MODEL_CONFIG).is_file():
            return read_model_config(self._folder)
        return derive_model(settings, location_of(self._folder, self._metadata))

    def _list(self, needed: Mapping[str, Shape]) -> dict[str, TensorInfo]:
        """The tensors of the model; what else the checkpoint holds is left out with a note."""
        tensors, others = {}, set()
        for name, entry in self._metadata.state_dict_metadata.items():
            if not isinstance(entry, TensorStorageMetadata):
                # TransformerEngine's objects and the args are no weights and no news.
                if "._extra_state" not in name and name != COMMON_OBJECT:
                    others.add(_first_part(name))
                continue
            if not name.startswith(MODEL_PREFIXES):
                others.add(_first_part(name))
                continue
            shape = tuple(entry.size)
            if name in VOCABULARY and name in needed and shape[0] > needed[name][0]:
                rows = needed[name][0]
                self.notes.append(f"{name}: {shape[0] - rows} rows that pad the vocabulary")
                shape = (rows, *shape[1:])
            tensors[name] = TensorInfo(shape, entry.properties.dtype)
        if others:
            self.notes.append(f"not part of the model, left out: {', '.join(sorted(others))}")
        return tensors

    def read(self, name: str, box: Box) -> Tensor:
        """A block, put together from the chunks that hold it."""
        try:
            return assemble(box, self._parts(name, box))
        except NotCoveredError as error:
            raise WeightError(
                f"{self._folder}: the chunks of {name} do not cover it once."
            ) from error

    def _parts(self, name: str, box: Box) -> Iterator[tuple[Box, Tensor]]:
        """Where each chunk's share of the block lies, and its numbers."""
        entry = self._metadata.state_dict_metadata[name]
        assert isinstance(entry, TensorStorageMetadata)  # `tensors` lists nothing else
        for chunk in entry.chunks:
            offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
            chunk_box = Box.whole(sizes).moved(offsets)
            shared = chunk_box.intersection(box)
            if shared is not None:
                yield shared, self._chunk(name, offsets, sizes).read(shared.within(chunk_box))

    def _chunk(self, name: str, offsets: Shape, sizes: Shape) -> StoredTensor | LoadedTensor:
        key = (name, offsets)
        if key not in self._opened:
            if len(self._opened) > _MAX_OPENED:
                self._opened.clear()
            self._opened[key] = self._open(name, offsets, sizes)
        return self._opened[key]

    def _open(self, name: str, offsets: Shape, sizes: Shape) -> StoredTensor | LoadedTensor:
        """The chunk of a tensor that begins at `offsets`."""
        info = self._metadata.storage_data.get(MetadataIndex(name, offsets))
        if info is None:
            raise WeightError(f"{self._folder}/.metadata: no file for {name} at {list(offsets)}.")
        path = self._folder / info.relative_path
        if not path.is_file():
            raise WeightError(f"{path}: missing, though .metadata names it.")
        what = f"{path} ({name})"
        with open_slice(path, int(info.offset), int(info.length)) as stream:
            value, archive = inspect_torch_zip(stream, what)
            tensors = ArchivedTensors(archive, stream, path, int(info.offset))
            chunk: StoredTensor | LoadedTensor | None = tensors.find(value)
            if chunk is None:  # a view or a compressed archive: torch's own restricted reader
                stream.seek(0)
                loaded = torch.load(stream, map_location="cpu", weights_only=True)
                chunk = LoadedTensor(loaded)
        if tuple(chunk.shape) != sizes:
            raise WeightError(f"{what}: {list(chunk.shape)}, .metadata says {list(sizes)}.")
        if isinstance(chunk, StoredTensor):
            chunk.check()
        return chunk

    def identity(self) -> object:
        """Files with size and time of change."""
        files = {str(info.relative_path) for info in self._metadata.storage_data.values()}
        return identity_of([self._folder / name for name in sorted(files)])


def _first_part(key: str) -> str:
    """What a key begins with: optimizer.state.exp_avg/shard_0 is of the optimizer."""
    return key.split(".")[0].split("/")[0]
