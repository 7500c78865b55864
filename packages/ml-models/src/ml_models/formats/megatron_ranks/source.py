"""Weights in Megatron's per-rank files as a source: blocks are read when they are asked for.

What several ranks hold (norms and router over TP and EP, the rest of the attention and the
vocabulary over EP) is taken from the first of them. Each block that is read is compared bit by bit
with the copies on the other ranks. This doubles the reading, and a checkpoint whose ranks drifted
apart is noticed.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.formats.megatron.args import check_model, derive_model
from ml_models.formats.megatron_ranks.ranks import read_ranks
from ml_models.formats.megatron_ranks.table import Table, TableMaker
from ml_models.weights.boxes import Box
from ml_models.weights.maps import WeightMap, map_of
from ml_models.weights.source import TensorInfo, check_names, identity_of


class MegatronRanksSource:
    """A folder of mp_rank_* folders, opened."""

    format = "megatron-legacy"

    def __init__(self, folder: Path, model: ModelConfig | None = None) -> None:
        layout, self._files = read_ranks(folder)
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
            for label, stored in table.tensors.items()
        }
        self._copies = table.copies
        self.tensors: Mapping[str, TensorInfo] = {
            label: TensorInfo(shape, self._stored[label].dtype)
            for label, shape in self.weights.tensor_shapes.items()
        }
        self.notes = self._notes(table, is_derived=model is None)
        self.notes.append(
            f"{layout}, {len(self._files)} files of iteration {first.iteration}: weights alone; "
            "optimizer and random state were not read"
        )

    def _notes(self, table: Table, *, is_derived: bool) -> list[str]:
        notes = []
        if is_derived:
            model = _in_words(self.model)
            notes.append(f"the model is what the checkpoint's args say: {model}")
        notes += [
            f"{parameter}: {rows} rows beyond the vocabulary, left out"
            for parameter, rows in table.padding.items()
        ]
        copies = sum(map(len, table.copies.values()))
        if copies:
            notes.append(
                f"{copies} tensors are copies of others on other ranks, compared with them bit by "
                "bit as those were read"
            )
        return notes

    def _check(self, folder: Path, table: Table) -> None:
        """The files hold the tensors of the table, and copies have the dtype of the original."""
        tensors = {
            file.label(chunk, name): TensorInfo(stored.shape, stored.dtype)
            for file in self._files
            for chunk, names in enumerate(file.chunks)
            for name, stored in names.items()
        }
        check_names(str(folder), tensors, table.shapes)
        for label, copies in table.copies.items():
            for copy in copies:
                if tensors[copy].dtype != tensors[label].dtype:
                    raise WeightError(
                        f"{folder}: {copy} is {tensors[copy].dtype}, {label} is "
                        f"{tensors[label].dtype}; they are copies of one tensor."
                    )

    def read(self, name: str, box: Box) -> Tensor:
        """A block of a tensor, equal to that of all its copies."""
        block = self._stored[name].read(box)
        for copy in self._copies.get(name, ()):
            copied = self._stored[copy].read(box)
            # As bytes: a number that is not a number equals itself only there.
            if not torch.equal(block.view(torch.uint8), copied.view(torch.uint8)):
                raise self._differs(name, copy, block, copied)
        return block

    def _differs(self, name: str, copy: str, block: Tensor, copied: Tensor) -> WeightError:
        paths = self._stored[name].path, self._stored[copy].path
        difference = float((block.float() - copied.float()).abs().max())
        return WeightError(
            f"{name} in {paths[0]} and {copy} in {paths[1]} differ by up to {difference:.3g}; they "
            "are copies of one tensor, so the files are of different runs, damaged, or of ranks "
            "that drifted apart."
        )

    def identity(self) -> object:
        """Files with size and time of change."""
        return identity_of([file.path for file in self._files])


def _in_words(model: ModelConfig) -> str:
    return (
        f"{model.architecture} with {model.num_layers} layers, hidden size {model.hidden_size}, "
        f"{model.num_experts} experts of {model.ffn_hidden_size}"
    )
