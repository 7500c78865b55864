"""Weights in Megatron's per-rank files as a source: blocks are read when they are asked for.

What several ranks hold (norms and router over TP and EP, the rest of the attention and the
vocabulary over EP) is taken from the first of them, and each block that is read is compared bit by
bit with the others' on the way: twice the reading, and no claim that was not checked.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.formats.megatron.args import check_model, derive_model
from ml_models.formats.megatron_ranks.ranks import identity_of, read_ranks
from ml_models.formats.megatron_ranks.table import Table, TableMaker
from ml_models.weights.maps import Box, WeightMap, map_of
from ml_models.weights.source import TensorInfo, check_names


class LegacySource:
    """One folder of mp_rank_* folders, opened."""

    format = "megatron-legacy"

    def __init__(self, folder: Path, model: ModelConfig | None = None) -> None:
        layout, self._files = read_ranks(folder)
        self.notes: list[str] = []
        first = self._files[0]
        self.model = model or derive_model(first.settings, first.path)
        for file in self._files:
            check_model(file.settings, self.model, file.path)
        shapes = registry.architecture(self.model).weights().shapes(self.model)
        table = TableMaker(self.model, layout, self._files).make(shapes)
        self._check(folder, table)
        self.weights: WeightMap = map_of(table.pieces, shapes)
        self._stored = {
            label: replace(stored, shape=table.in_memory.get(label, stored.shape))
            for label, stored in table.places.items()
        }
        self._copies = table.copies
        self.tensors: Mapping[str, TensorInfo] = {
            label: TensorInfo(shape, self._stored[label].dtype)
            for label, shape in self.weights.theirs_shapes.items()
        }
        if model is None:
            self.notes.append(
                f"the model is what the checkpoint's args say: {_in_words(self.model)}"
            )
        self.notes += [
            f"{ours}: {rows} rows beyond the vocabulary, left out"
            for ours, rows in table.padding.items()
        ]
        copies = sum(map(len, table.copies.values()))
        if copies:
            self.notes.append(
                f"{copies} tensors are copies of others on other ranks, compared with them bit by "
                "bit as those were read"
            )
        self.notes.append(
            f"{layout}, {len(self._files)} files of iteration {first.iteration}: weights alone; "
            "optimizer and random state were not read"
        )

    def _check(self, folder: Path, table: Table) -> None:
        found = {
            file.label(chunk, name): TensorInfo(stored.shape, stored.dtype)
            for file in self._files
            for chunk, tensors in enumerate(file.chunks)
            for name, stored in tensors.items()
        }
        check_names(str(folder), found, table.shapes)
        for label, others in table.copies.items():
            for other in others:
                if found[other].dtype != found[label].dtype:
                    raise WeightError(
                        f"{folder}: {other} is {found[other].dtype}, {label} is "
                        f"{found[label].dtype}; they are copies of one tensor."
                    )

    def read(self, name: str, box: Box) -> Tensor:
        """One block of one tensor, equal to that of all its copies."""
        block = self._stored[name].read(box)
        for copy in self._copies.get(name, ()):
            other = self._stored[copy].read(box)
            if not torch.equal(block.view(torch.uint8), other.view(torch.uint8)):
                raise self._differs(name, copy, block, other)
        return block

    def _differs(self, name: str, copy: str, block: Tensor, other: Tensor) -> WeightError:
        one, two = self._stored[name].path, self._stored[copy].path
        apart = float((block.float() - other.float()).abs().max())
        return WeightError(
            f"{name} in {one} and {copy} in {two} differ by up to {apart:.3g}; they are copies of "
            "one tensor, so the files are of different runs, damaged, or of ranks that drifted "
            "apart."
        )

    def identity(self) -> Any:
        """Files with size and time of change."""
        return identity_of(self._files)


def _in_words(model: ModelConfig) -> str:
    return (
        f"{model.architecture} with {model.num_layers} layers, hidden size {model.hidden_size}, "
        f"{model.num_experts} experts of {model.ffn_hidden_size}"
    )
