"""How the matrices of experts lie in per-rank files: a tensor per expert, or one for all of a rank.

E experts have inner width F and hidden size H. A rank of EP has E / EP experts; a rank of TP has
F / TP rows of both halves of linear_fc1 and F / TP columns of linear_fc2.

| module | name | shape in the file |
|---|---|---|
| SequentialMLP | mlp.experts.local_experts.INDEX.LINEAR.weight | [rows, columns] of an expert |
| TransformerEngine | mlp.experts.LINEAR.weightINDEX | the same |
| GroupedMLP | mlp.experts.weight1, weight2 | all experts, transposed, flattened to two axes |
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ml_models.formats.megatron_ranks.layout import Layout
from ml_models.weights.boxes import Box, Shape

SEQUENTIAL, TRANSFORMER_ENGINE = "mlp.experts.local_experts.{}.{}.weight", "mlp.experts.{}.weight{}"
GROUPED = {"linear_fc1": "mlp.experts.weight1", "linear_fc2": "mlp.experts.weight2"}


@dataclass(frozen=True)
class ExpertMatrices:
    """linear_fc1 or linear_fc2 of all experts of a layer."""

    linear: str
    """linear_fc1 or linear_fc2."""
    shape: Shape
    """Of the parameter: [E, 2, F, H] or [E, H, F]."""
    layout: Layout
    prefix: str
    """decoder.layers.N. with the layer's number in its chunk."""
    names: Collection[str]
    """What the files of the stage hold."""

    @property
    def per_rank(self) -> int:
        """Experts of an EP rank."""
        return self.shape[0] // self.layout.ep

    @property
    def is_grouped(self) -> bool:
        """Whether a GroupedMLP wrote the files; its matrices are transposed."""
        return self.prefix + GROUPED[self.linear] in self.names

    @property
    def _matrix(self) -> Shape:
        """Rows and columns of an expert on a TP rank."""
        if self.linear == "linear_fc1":
            return 2 * self._part, self.shape[3]
        return self.shape[1], self._part

    @property
    def _part(self) -> int:
        """The share of F that a TP rank has."""
        ffn = self.shape[2]
        return ffn // self.layout.tp

    @property
    def grouped_shape(self) -> Shape:
        """The true axes of a GroupedMLP's matrix: experts, columns, rows."""
        rows, columns = self._matrix
        return self.per_rank, columns, rows

    def stored(self, index: int) -> tuple[str, Shape]:
        """Name and shape of the tensor that holds the rank's expert `index`."""
        if self.is_grouped:
            experts, columns, rows = self.grouped_shape
            wide = (columns, experts * rows)
            tall = (experts * columns, rows)
            name = self.prefix + GROUPED[self.linear]
            return name, wide if self.linear == "linear_fc1" else tall
        name = self.prefix + TRANSFORMER_ENGINE.format(self.linear, index)
        if self.prefix + TRANSFORMER_ENGINE.format(self.linear, 0) not in self.names:
            name = self.prefix + SEQUENTIAL.format(index, self.linear)
        return name, self._matrix

    def blocks(self, tp: int, ep: int, index: int) -> Iterator[tuple[Box, Box]]:
        """(block of the parameter, block of the tensor) of the expert `index` of a rank.

        The tensor's block of a GroupedMLP has the axes of `grouped_shape`.
        """
        expert = ep * self.per_rank + index
        for box, rows in self._rank_blocks(tp):
            if self.is_grouped:
                rows = Box(rows[::-1]).behind((index, index + 1))
            yield box.behind((expert, expert + 1)), rows

    def _rank_blocks(self, tp: int) -> Iterator[tuple[Box, Box]]:
        """(block of the parameter without the expert's axis, block of the rank's matrix)."""
        part = self._part
        ffn = (tp * part, (tp + 1) * part)
        if self.linear == "linear_fc2":
            whole = (0, self.shape[1])
            yield Box.of(whole, ffn), Box.of(whole, (0, part))
            return
        for half in (0, 1):
            columns = (0, self.shape[3])
            rows = (half * part, (half + 1) * part)
            yield Box.of((half, half + 1), ffn, columns), Box.of(rows, columns)
