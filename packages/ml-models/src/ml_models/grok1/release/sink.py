"""What xAI's own program reads: a folder to be its ckpt-0, one pickle per leaf of the haiku tree.

```
OUTPUT/tensorNNNNN_000      as in xai.py, each byte as xAI's writer makes it
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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml_models.errors import WeightError
from ml_models.files.durable import write_durably
from ml_models.files.hashes import HashingStream
from ml_models.files.pickle_writer import ByteBlocks, PickleWriter
from ml_models.files.pickles import Call, Name
from ml_models.grok1 import weights as maps
from ml_models.grok1.config import Grok1Config
from ml_models.grok1.release.config import CONFIG_NAME, to_xai, warnings
from ml_models.grok1.release.quantize import quantize_rows
from ml_models.grok1.release.source import leaf_names
from ml_models.weights.arrays import bytes_of
from ml_models.weights.maps import Box, Shape, WeightMap
from ml_models.weights.sink import (
    Blocks,
    Sink,
    SinkOptions,
    Target,
    Written,
    chunk_boxes,
    read_ahead,
)

SCALE_GROUPS = 8  # of the release: the size of its mesh's model axis
# numpy's pickled dtypes: the argument of numpy.dtype, and its state after the version
PICKLED = {
    torch.float32: ("f4", ("<", None, None, None, -1, -1, 0)),
    torch.int8: ("i1", ("|", None, None, None, -1, -1, 0)),
    torch.bfloat16: (Name("ml_dtypes", "bfloat16"), ("<", None, None, None, 2, 2, 64)),
}


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
        self._given = dict(dtypes)
        self._grok1 = model
        stored = {name: torch.int8 if maps.is_quantized(name) else torch.float32 for name in dtypes}
        super().__init__(model, weights, stored, options)
        self.settings = {"scale_groups": self.scale_groups}
        self.notes = warnings(model, self.scale_groups)

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        by_name = {target.name: target for target in self.targets}
        for number, name in enumerate(leaf_names(self._grok1)):
            yield f"tensor{number:05d}_000", [by_name[name]]

    def _write(
        self, out: HashingStream, targets: list[Target], blocks: Blocks, done: Written
    ) -> None:
        (target,) = targets
        writer = PickleWriter(out.write)
        digest = hashlib.sha256()
        if target.dtype != torch.int8:
            boxes = chunk_boxes(target.shape, target.dtype.itemsize, self.chunk_bytes)
            whole = (bytes_of(block) for _, block in read_ahead(blocks, target, boxes))
            writer.dump(_array(target.shape, target.dtype, lambda: _hashed(whole, digest)))
        else:
            leaf = _QuantizedLeaf(target, self._groups(target), blocks, done)
            given = self._given[target.name]
            weight = _array(
                target.shape,
                torch.int8,
                lambda: _hashed(leaf.integers(given, self.chunk_bytes), digest),
            )
            scales = _array(leaf.scales_shape, torch.bfloat16, leaf.scales)
            state = {"weight": weight, "scales": scales}
            writer.dump(Call(Name("__main__", "QuantizedWeight8bit"), (), state))
        done.tensors[target.name] = digest.hexdigest()

    def _groups(self, target: Target) -> int:
        return self.scale_groups if maps.is_row_parallel(target.name) else 1

    def finish(self, folder: Path, written: Mapping[str, Written]) -> None:
        """xai_config.json, in the form that --config reads."""
        values = to_xai(self._grok1, self.scale_groups)
        write_durably(folder / CONFIG_NAME, json.dumps(values, indent=1) + "\n")


class _QuantizedLeaf:
    """Integers first, the scales that came of them afterwards: the order of the file."""

    def __init__(self, target: Target, groups: int, blocks: Blocks, done: Written) -> None:
        self._target, self._groups, self._blocks, self._done = target, groups, blocks, done
        *lead, _, columns = target.shape
        self.scales_shape: Shape = (*lead, groups, columns)
        self._scales: list[Tensor] = []

    def integers(self, given: torch.dtype, chunk_bytes: int) -> Iterator[memoryview]:
        """int8 rows, one expert and one group of rows at a time, each in place of the last."""
        *lead, rows, _ = self._target.shape
        per_group = rows // self._groups
        plane = torch.empty((per_group, self._target.shape[-1]), dtype=torch.int8)
        for index in itertools.product(*(range(size) for size in lead)):
            for group in range(self._groups):
                band = (group * per_group, (group + 1) * per_group)
                place = (*((at, at + 1) for at in index), band)
                self._fill(plane, place, replace(self._target, dtype=given), chunk_bytes)
                yield bytes_of(plane)

    def _fill(self, plane: Tensor, place: Box, target: Target, chunk_bytes: int) -> None:
        """One group's integers, a band of columns at a time, and its scales."""
        rows, columns = plane.shape
        scales = torch.empty(columns, dtype=torch.bfloat16)
        width = max(1, chunk_bytes // (rows * max(target.dtype.itemsize, 4)))
        starts = range(0, columns, width)
        boxes = [(*place, (start, min(start + width, columns))) for start in starts]
        for (*_, (start, stop)), block in read_ahead(self._blocks, target, boxes):
            found = quantize_rows(block.reshape(rows, stop - start).t().contiguous())
            if not math.isfinite(found.largest_error):
                raise WeightError(
                    f"{target.name}: it has numbers that are infinite or not a number, or that "
                    "bfloat16 scales cannot reach; int8 cannot hold them."
                )
            plane[:, start:stop] = found.integers.t().contiguous()
            scales[start:stop] = found.scales
            self._done.add_losses(target.name, found.num_inexact, found.largest_error)
        self._scales.append(scales)

    def scales(self) -> Iterator[memoryview]:
        """All scales, once all integers were asked for."""
        data = bytes_of(torch.cat(self._scales))
        self._done.scales[self._target.name] = {
            "shape": list(self.scales_shape),
            "dtype": "bfloat16",
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        yield data


def _hashed(parts: Iterator[memoryview], digest: Any) -> Iterator[memoryview]:
    for part in parts:
        digest.update(part)
        yield part


def _array(shape: Shape, dtype: torch.dtype, blocks: Callable[[], Iterator[memoryview]]) -> Call:
    """A numpy array, with the name that the release's numpy gave its constructor."""
    kind, state = PICKLED[dtype]
    empty = (Name("numpy", "ndarray"), (0,), b"b")
    described = Call(Name("numpy", "dtype"), (kind, False, True), (3, *state))
    data = ByteBlocks(math.prod(shape) * dtype.itemsize, blocks)
    return Call(
        Name("numpy.core.multiarray", "_reconstruct"), empty, (1, shape, described, False, data)
    )
