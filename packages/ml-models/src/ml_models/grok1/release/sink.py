"""What xAI's own program reads: a folder to be its ckpt-0, one pickle per leaf of the haiku tree.

```
OUTPUT/tensorNNNNN_000      as in source.py, each byte as xAI's writer makes it
OUTPUT/xai_config.json      the settings that run.py must be given
OUTPUT/conversion_report.json
```
A matrix of one group of rows (the whole contraction axis, or an eighth of it in the row-parallel
weights) is quantized a band of columns at a time, which in our own layout and in safetensors is a
run of whole rows. Trade-off: the group's int8 (201 MB at most in the 314 B model) and the leaf's
scales wait in memory until its last column is known, so that nothing is read or written twice. One
layer of that model takes 105 s and 0.56 GB in all, see benchmarks/convert.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ml_models.errors import WeightError
from ml_models.files.durable import write_durably
from ml_models.files.hashes import HashingStream
from ml_models.files.inert import Call, Name
from ml_models.files.pickle_writer import ByteBlocks, PickleWriter
from ml_models.grok1 import weights as tables
from ml_models.grok1.config import Grok1Config
from ml_models.grok1.release.config import CONFIG_NAME, to_xai, warnings
from ml_models.grok1.release.quantize import quantize_rows
from ml_models.grok1.release.source import leaf_names
from ml_models.weights.arrays import bytes_of
from ml_models.weights.blocks import read_ahead
from ml_models.weights.boxes import Box, Shape, volume
from ml_models.weights.maps import WeightMap
from ml_models.weights.sink import Blocks, FileRecord, Sink, SinkOptions, Target

SCALE_GROUPS = 8  # of the release: the size of its mesh's model axis
# numpy's pickled dtypes: the argument of numpy.dtype, and its state after the version
PICKLED = {
    torch.float32: ("f4", ("<", None, None, None, -1, -1, 0)),
    torch.int8: ("i1", ("|", None, None, None, -1, -1, 0)),
    torch.bfloat16: (Name("ml_dtypes", "bfloat16"), ("<", None, None, None, 2, 2, 64)),
}


class Digest(Protocol):
    """A checksum of hashlib's that is being computed."""

    def update(self, data: memoryview, /) -> None:
        """Add bytes."""


def check_scale_groups(model: Grok1Config, groups: int) -> None:
    """WeightError unless every row-parallel matrix divides into `groups` groups of rows."""
    widths = {
        "heads times head size": model.num_attention_heads * model.kv_channels,
        "ffn_hidden_size": model.ffn_hidden_size,
    }
    if groups >= 1 and all(width % groups == 0 for width in widths.values()):
        return
    common = math.gcd(*widths.values())
    choices = [str(n) for n in range(1, min(common, 64) + 1) if common % n == 0]
    raise WeightError(
        f"--xai-scale-groups is {groups}; it must divide "
        f"{' and '.join(f'{name} ({width})' for name, width in widths.items())}: "
        f"{', '.join(choices)} do."
    )


class XaiSink(Sink):
    """Grok-1 as xAI released it: seven quantized matrices a layer, fp32 for the rest."""

    format = "xai"

    def __init__(
        self,
        model: Grok1Config,
        weights: WeightMap,
        dtypes: Mapping[str, torch.dtype],
        options: SinkOptions,
    ) -> None:
        self.scale_groups = SCALE_GROUPS if options.scale_groups is None else options.scale_groups
        check_scale_groups(model, self.scale_groups)
        self._read_dtypes = dict(dtypes)
        self._grok1 = model
        stored = {
            name: torch.int8 if tables.is_quantized(name) else torch.float32 for name in dtypes
        }
        super().__init__(model, weights, stored, options)
        self.settings = {"scale_groups": self.scale_groups}
        self.notes = warnings(model, self.scale_groups)

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        """A file per leaf, whatever its size: `groups` are made by size for other formats."""
        # xAI's program reads tensorNNNNN_000 in the order of the flattened tree.
        by_name = {target.name: target for group in groups for target in group}
        for number, name in enumerate(leaf_names(self._grok1)):
            yield f"tensor{number:05d}_000", [by_name[name]]

    def _write(
        self, stream: HashingStream, targets: list[Target], blocks: Blocks, record: FileRecord
    ) -> None:
        (target,) = targets
        digest = hashlib.sha256()
        if target.dtype == torch.int8:
            given = replace(target, dtype=self._read_dtypes[target.name])
            leaf = _QuantizedLeaf(given, self._groups(target), blocks, record)
            value = leaf.pickled(digest, self.chunk_bytes)
        else:
            numbers = (bytes_of(block) for _, block in self._chunks(target, blocks))
            value = _array(target.shape, target.dtype, lambda: _hashed(numbers, digest))
        PickleWriter(stream.write).dump(value)
        record.tensors[target.name] = digest.hexdigest()

    def _groups(self, target: Target) -> int:
        return self.scale_groups if tables.is_row_parallel(target.name) else 1

    def finish(self, folder: Path, _: Mapping[str, FileRecord]) -> None:
        """Write xai_config.json, in the form that --config reads."""
        values = to_xai(self._grok1, self.scale_groups)
        write_durably(folder / CONFIG_NAME, json.dumps(values, indent=1) + "\n")


class _QuantizedLeaf:
    """A leaf of int8 weights and bfloat16 scales, in the order of the file: weights first.

    The scales become known while the weights are quantized, so that they wait in memory.
    """

    def __init__(self, given: Target, groups: int, blocks: Blocks, record: FileRecord) -> None:
        """given: the leaf in the dtype that it is read in; `groups` of rows have own scales."""
        self._given, self._groups, self._blocks, self._record = given, groups, blocks, record
        *lead, _, columns = given.shape
        self._scales_shape: Shape = (*lead, groups, columns)
        self._scales: list[Tensor] = []

    def pickled(self, digest: Digest, chunk_bytes: int) -> Call:
        """The inert object that the pickle holds; `digest` takes the integers as they are made."""
        weight = _array(
            self._given.shape, torch.int8, lambda: _hashed(self._integers(chunk_bytes), digest)
        )
        scales = _array(self._scales_shape, torch.bfloat16, self._scale_bytes)
        state = {"weight": weight, "scales": scales}
        return Call(Name("__main__", "QuantizedWeight8bit"), (), state)

    def _integers(self, chunk_bytes: int) -> Iterator[memoryview]:
        """int8 rows, a group of rows at a time. All groups share one plane of memory."""
        *lead, rows, columns = self._given.shape
        group_rows = rows // self._groups
        # Allocated once: the system would clear the pages of a new plane for every group.
        plane = torch.empty((group_rows, columns), dtype=torch.int8)
        for index in itertools.product(*(range(size) for size in lead)):
            matrix = Box((at, at + 1) for at in index)
            for group in range(self._groups):
                band = (group * group_rows, (group + 1) * group_rows)
                self._quantize_group(plane, Box((*matrix, band)), chunk_bytes)
                yield bytes_of(plane)

    def _quantize_group(self, plane: Tensor, rows_box: Box, chunk_bytes: int) -> None:
        """Fill `plane` with a group's integers, a band of columns at a time; keep its scales."""
        rows, columns = plane.shape
        scales = torch.empty(columns, dtype=torch.bfloat16)
        # quantize_rows works in fp32, so that a column takes 4 bytes a row at least.
        width = max(1, chunk_bytes // (rows * max(self._given.dtype.itemsize, 4)))
        boxes = [
            Box((*rows_box, (start, min(start + width, columns))))
            for start in range(0, columns, width)
        ]
        for box, block in read_ahead(partial(self._blocks, self._given), boxes):
            start, stop = box[-1]
            quantized = quantize_rows(block.reshape(rows, stop - start).t().contiguous())
            if not math.isfinite(quantized.largest_error):
                raise WeightError(
                    f"{self._given.name}: it has numbers that are infinite or not a number, or "
                    "that bfloat16 scales cannot reach; int8 cannot hold them."
                )
            plane[:, start:stop] = quantized.integers.t().contiguous()
            scales[start:stop] = quantized.scales
            self._record.add_losses(
                self._given.name, quantized.num_inexact, quantized.largest_error
            )
        self._scales.append(scales)

    def _scale_bytes(self) -> Iterator[memoryview]:
        """All scales, once all integers were asked for."""
        data = bytes_of(torch.cat(self._scales))
        self._record.scales[self._given.name] = {
            "shape": list(self._scales_shape),
            "dtype": "bfloat16",
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        yield data


def _hashed(parts: Iterator[memoryview], digest: Digest) -> Iterator[memoryview]:
    for part in parts:
        digest.update(part)
        yield part


def _array(shape: Shape, dtype: torch.dtype, blocks: Callable[[], Iterator[memoryview]]) -> Call:
    """A numpy array, with the name that the release's numpy gave its constructor."""
    kind, state = PICKLED[dtype]
    empty = (Name("numpy", "ndarray"), (0,), b"b")
    described = Call(Name("numpy", "dtype"), (kind, False, True), (3, *state))
    data = ByteBlocks(volume(shape) * dtype.itemsize, blocks)
    return Call(
        Name("numpy.core.multiarray", "_reconstruct"), empty, (1, shape, described, False, data)
    )
