"""Writes the model part of a distributed checkpoint, which loads under any parallel layout."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo

from ml_models import registry
from ml_models.files.distributed import MetadataBuilder
from ml_models.files.hashes import HashingStream
from ml_models.files.integrity import write_integrity
from ml_models.formats.megatron.model_config import write_model_config
from ml_models.weights.arrays import bytes_of
from ml_models.weights.boxes import Box
from ml_models.weights.maps import identity_map
from ml_models.weights.sink import Blocks, FileRecord, Sink, SinkOptions, Target, target_dtypes
from ml_models.weights.source import Reader


class MegatronSink(Sink):
    """Writes a checkpoint folder."""

    format = "megatron"
    # A chunk is an entry of .metadata, which every later reader checks: larger ones, fewer entries.
    CHUNK_BYTES = 16 * 2**20

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        for number, group in enumerate(groups):
            yield f"__0_{number}.distcp", group

    def _write(
        self, stream: HashingStream, targets: list[Target], blocks: Blocks, record: FileRecord
    ) -> None:
        for target in targets:
            digest = hashlib.sha256()
            for box, part in self._chunks(target, blocks):
                block, begin = part.contiguous(), stream.size
                digest.update(bytes_of(block))
                torch.save(block, stream)  # type: ignore[arg-type]
                record.chunks.append((target.name, box, begin, stream.size - begin))
            record.tensors[target.name] = digest.hexdigest()

    def finish(self, folder: Path, records: Mapping[str, FileRecord]) -> None:
        """Write .metadata, the files beside it and model_config.json."""
        builder = MetadataBuilder()
        # A string object per name, as pickle writes a known object as a reference: a resumed
        # conversion has read its names from the journal, and gives the same bytes.
        names = {target.name: target.name for target in self.targets}
        for target in self.targets:
            builder.add_tensor(target.name, target.shape, target.dtype)
        for file in self.files:
            for tensor, ranges, offset, length in records[file].chunks:
                box = Box((int(start), int(stop)) for start, stop in ranges)
                info = _StorageInfo(file, offset, length)
                builder.add_chunk(names[tensor], box.starts, box.shape, info)
        builder.write(folder)
        write_model_config(folder, self.model)

    def seal(self, folder: Path, records: Mapping[str, FileRecord]) -> None:
        """Write integrity.json and COMPLETE."""
        write_integrity(folder, {name: record.sha256 for name, record in records.items()})


def make_sink(reader: Reader, options: SinkOptions) -> MegatronSink:
    """A sink for the model that `reader` reads."""
    model = reader.source.model
    weights = identity_map(registry.architecture(model).weights().shapes(model))
    return MegatronSink(model, weights, target_dtypes(reader, weights, options.dtype), options)
