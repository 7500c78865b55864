"""Writes config.json and safetensors files that transformers reads."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.files.durable import write_durably
from ml_models.files.hashes import HashingStream
from ml_models.weights.arrays import bytes_of
from ml_models.weights.maps import build_map
from ml_models.weights.safetensors import header_bytes
from ml_models.weights.sink import Blocks, FileRecord, Sink, SinkOptions, Target, target_dtypes
from ml_models.weights.source import Reader


class HuggingFaceSink(Sink):
    """Writes a folder for transformers."""

    format = "huggingface"

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        if len(groups) == 1:
            yield "model.safetensors", in_library_order(groups[0])
            return
        for number, group in enumerate(groups, start=1):
            name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
            yield name, in_library_order(group)

    def _stored_name(self, target: Target) -> str:
        """The name that a tensor has in its file."""
        return target.name

    def _write(
        self, stream: HashingStream, targets: list[Target], blocks: Blocks, record: FileRecord
    ) -> None:
        header = header_bytes(
            {self._stored_name(target): (target.shape, target.dtype) for target in targets}
        )
        stream.write(header)
        for target in targets:
            digest = hashlib.sha256()
            for _, block in self._chunks(target, blocks):
                data = bytes_of(block)
                digest.update(data)
                stream.write(data)
            record.tensors[target.name] = digest.hexdigest()

    def finish(self, folder: Path, _: Mapping[str, FileRecord]) -> None:
        """Write config.json, and the index where there is more than one file."""
        self._write_config(folder)
        if len(self.files) == 1:
            return
        index = {
            "metadata": {"total_size": sum(target.num_bytes for target in self.targets)},
            "weight_map": {
                target.name: name for name, targets in self.files.items() for target in targets
            },
        }
        write_durably(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")

    def _write_config(self, folder: Path) -> None:
        dtypes = {str(target.dtype).removeprefix("torch.") for target in self.targets}
        dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
        values = huggingface_config(self.model, dtype)
        write_durably(folder / "config.json", json.dumps(values, indent=2) + "\n")

    def add_notes(self) -> None:
        """What config.json cannot tell a user of the folder, for the report."""
        notes = getattr(registry.architecture(self.model).hf_config(), "notes", None)
        self.notes = list(notes(self.model)) if notes is not None else []


def in_library_order(targets: Iterable[Target]) -> list[Target]:
    """As the safetensors library writes them: wide dtypes first, then by name.

    A file then has the bytes that the library gives the same tensors.
    """
    return sorted(targets, key=lambda target: (-target.dtype.itemsize, target.name))


def huggingface_config(model: ModelConfig, dtype: str) -> dict[str, object]:
    """config.json of a model; WeightError for what the format cannot say."""
    return registry.architecture(model).hf_config().to_huggingface(model, dtype)


def make_sink(reader: Reader, options: SinkOptions) -> HuggingFaceSink:
    """A sink for the model that `reader` reads. Raises WeightError for what has no place."""
    model = reader.source.model
    architecture = registry.architecture(model)
    huggingface_config(model, "float32")
    tables = architecture.weights()
    weights = build_map(tables.huggingface_rows(model), tables.shapes(model), model)
    dtypes = target_dtypes(reader, weights, options.dtype)
    sink = HuggingFaceSink(model, weights, dtypes, options)
    sink.add_notes()
    return sink
