"""The model part of a distributed checkpoint, written."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from ml_models import registry
from ml_models.files.hashes import HashingStream
from ml_models.files.integrity import write_integrity
from ml_models.formats.megatron.model_config import write_model_config
from ml_models.formats.megatron.source import MetadataBuilder
from ml_models.weights.arrays import bytes_of
from ml_models.weights.maps import identity_map
from ml_models.weights.sink import (
    Blocks,
    Sink,
    SinkOptions,
    Target,
    Written,
    chunk_boxes,
    read_ahead,
    target_dtypes,
)
from ml_models.weights.source import Reader


class MegatronSink(Sink):
    """The model part of a distributed checkpoint; loads under any layout."""

    format = "megatron"
    CHUNK_BYTES = 16 * 2**20  # each is an entry of .metadata, which every later reader checks

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        for number, group in enumerate(groups):
            yield f"__0_{number}.distcp", group

    def _write(
        self, out: HashingStream, targets: list[Target], blocks: Blocks, done: Written
    ) -> None:
        for target in targets:
            digest = hashlib.sha256()
            boxes = chunk_boxes(target.shape, target.dtype.itemsize, self.chunk_bytes)
            for box, part in read_ahead(blocks, target, boxes):
                block, begin = part.contiguous(), out.size
                digest.update(bytes_of(block))
                torch.save(block, out)  # type: ignore[arg-type]
                done.chunks.append([target.name, box, begin, out.size - begin])
            done.tensors[target.name] = digest.hexdigest()

    def finish(self, folder: Path, written: Mapping[str, Written]) -> None:
        """.metadata, model_config.json; the engine adds integrity.json and COMPLETE."""
        builder = MetadataBuilder()
        # One string object per name, as pickle writes a known object as a reference: a resumed
        # conversion has read its names from the journal, and gives the same bytes.
        names = {target.name: target.name for target in self.targets}
        for target in self.targets:
            builder.add_tensor(target.name, target.shape, target.dtype)
        for name in self.files:
            for tensor, box, offset, length in written[name].chunks:
                place = tuple((int(a), int(b)) for a, b in box)
                builder.add_chunk(names[tensor], place, name, offset, length)
        builder.write(folder)
        write_model_config(folder, self.model)

    def seal(self, folder: Path, written: Mapping[str, Written]) -> None:
        """integrity.json and COMPLETE."""
        write_integrity(folder, {name: done.sha256 for name, done in written.items()})


def make_sink(reader: Reader, options: SinkOptions) -> MegatronSink:
    """A sink for the model that `reader` reads."""
    model = reader.source.model
    weights = identity_map(registry.architecture(model).weights().shapes(model))
    return MegatronSink(model, weights, target_dtypes(reader, weights, options.dtype), options)
