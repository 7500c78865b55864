"""Which block of which file is which block of a parameter: the rules of __init__.py as pieces.

Labels name tensors of files, see RankFile.label. TP divides rows or columns of a matrix, PP layers,
EP experts; what a group does not divide, each of its ranks holds as a copy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ml_models.config import ModelConfig
from ml_models.errors import LayoutError, WeightError
from ml_models.formats.megatron.names import LAYER, NAMES
from ml_models.formats.megatron_ranks.experts import ExpertMatrices
from ml_models.formats.megatron_ranks.layout import Layout
from ml_models.formats.megatron_ranks.ranks import RankFile
from ml_models.weights.arrays import StoredTensor
from ml_models.weights.boxes import Box, Shape
from ml_models.weights.maps import Piece

EMBEDDING, OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
# Dimensions that each TP rank has an equal share of, by the parameter's name within a layer.
_DIVIDED_AXIS = {
    "self_attention.linear_qkv.weight": 0,
    "self_attention.linear_proj.weight": 1,
    "mlp.linear_fc2.weight": 1,
}
_EXPERTS = re.compile(r"mlp\.experts\.(linear_fc[12])\.weight")


@dataclass
class Table:
    """Every tensor that the files must hold, and what it is."""

    pieces: list[Piece] = field(default_factory=list)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    """Label -> place, of what the files hold and the model has a use for."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Label -> the shape that it must have, copies too; rows of padding count."""
    in_memory: dict[str, Shape] = field(default_factory=dict)
    """Label -> the true axes of a GroupedMLP's matrix: the file has them flattened to two."""
    copies: dict[str, list[str]] = field(default_factory=dict)
    """Label of what is read -> labels of what must equal it."""
    padding: dict[str, int] = field(default_factory=dict)
    """Parameter -> rows beyond the vocabulary, over all ranks."""


@dataclass(frozen=True)
class _Stage:
    """A model chunk in the files of all TP and EP ranks of a pipeline stage."""

    files: Mapping[tuple[int, int], RankFile]
    """(tp, ep) -> file."""
    chunk: int
    """0, or the virtual stage."""

    @property
    def names(self) -> Mapping[str, StoredTensor]:
        """The tensors of the first rank, which has the same names as the others."""
        return self.files[0, 0].chunks[self.chunk]

    def choose(self, names: tuple[str, ...]) -> str:
        """Which of several names the files use; the first where they use none."""
        return next((name for name in names if name in self.names), names[0])


class TableMaker:
    """Makes the table of one checkpoint."""

    def __init__(self, model: ModelConfig, layout: Layout, files: list[RankFile]) -> None:
        self._model, self._layout = model, layout
        self._files = {(file.pp, file.tp, file.ep): file for file in files}
        self.table = Table()
        for what, size, parts in (
            ("num_layers", model.num_layers, layout.pp * layout.vp),
            ("num_query_groups", model.num_query_groups, layout.tp),
            ("ffn_hidden_size", model.ffn_hidden_size, layout.tp),
            ("num_experts", model.num_experts, layout.ep),
        ):
            if size % parts:
                raise LayoutError(f"{what} is {size}; it cannot have been divided by {layout}.")

    def make(self, shapes: Mapping[str, Shape]) -> Table:
        """The table for parameters of these shapes. Raises WeightError for one without a rule."""
        first, last = self._stage(0, 0), self._stage(self._layout.vp - 1, self._layout.pp - 1)
        for parameter, shape in shapes.items():
            if parameter in (EMBEDDING, OUTPUT):
                self._vocabulary(first if parameter == EMBEDDING else last, parameter, shape)
            elif parameter == FINAL_NORM:
                self._replicated(last, parameter, shape, parameter)
            elif match := LAYER.fullmatch(parameter):
                self._layer(int(match[1]), match[2], parameter, shape)
            else:
                raise _no_rule(parameter)
        # The last stage computes the logits and cannot reach the embedding of the first one.
        if OUTPUT not in shapes and self._layout.pp > 1:
            self._tied_copy(first, last)
        return self.table

    def _stage(self, chunk: int, pp: int) -> _Stage:
        files = {(tp, ep): file for (stage, tp, ep), file in self._files.items() if stage == pp}
        return _Stage(files, chunk)

    def _layer(self, layer: int, inner: str, parameter: str, shape: Shape) -> None:
        """A parameter of a layer; `inner` is its name within the layer.

        Megatron deals out the layers chunk by chunk: virtual stage 0 of all pipeline stages comes
        first, then virtual stage 1, and so on.
        """
        per_chunk = self._model.num_layers // (self._layout.pp * self._layout.vp)
        chunk, within = divmod(layer, per_chunk * self._layout.pp)
        pp, local = divmod(within, per_chunk)
        stage, prefix = self._stage(chunk, pp), f"decoder.layers.{local}."
        if match := _EXPERTS.fullmatch(inner):
            self._experts(stage, prefix, match[1], parameter, shape)
            return
        choices = NAMES.get(inner, (inner,))
        name = stage.choose(tuple(prefix + choice for choice in choices))
        if inner == "mlp.linear_fc1.weight":
            self._halves(stage, parameter, shape, name)
        elif inner in _DIVIDED_AXIS:
            self._divided(stage, parameter, shape, name, axis=_DIVIDED_AXIS[inner])
        elif len(shape) == 1 or inner == "mlp.router.weight":
            self._replicated(stage, parameter, shape, name)
        else:
            raise _no_rule(parameter)

    def _tensor(self, file: RankFile, chunk: int, name: str, shape: Shape) -> str:
        """Note a tensor that must be there; returns its label."""
        label = file.label(chunk, name)
        self.table.shapes[label] = shape
        if name in file.chunks[chunk]:
            self.table.tensors[label] = file.chunks[chunk][name]
        return label

    def _over_ep(self, stage: _Stage, tp: int, name: str, shape: Shape) -> str:
        """A tensor that all EP ranks hold: the label of the first, the others being copies."""
        labels = [
            self._tensor(stage.files[tp, ep], stage.chunk, name, shape)
            for ep in range(self._layout.ep)
        ]
        self.table.copies.setdefault(labels[0], []).extend(labels[1:])
        return labels[0]

    def _make_copy(self, label: str, original: str) -> None:
        """`label` and its copies become copies of `original`."""
        self.table.copies[original] += [label, *self.table.copies.pop(label)]

    def _piece(self, parameter: str, parameter_box: Box, label: str, tensor_box: Box) -> None:
        self.table.pieces.append(Piece(parameter, parameter_box, label, tensor_box))

    def _replicated(self, stage: _Stage, parameter: str, shape: Shape, name: str) -> None:
        """A parameter that every TP and EP rank holds whole."""
        labels = [self._over_ep(stage, tp, name, shape) for tp in range(self._layout.tp)]
        for label in labels[1:]:
            self._make_copy(label, labels[0])
        self._piece(parameter, Box.whole(shape), labels[0], Box.whole(shape))

    def _divided(
        self, stage: _Stage, parameter: str, shape: Shape, name: str, *, axis: int
    ) -> None:
        """A parameter of which each TP rank holds a range of `axis`."""
        part = shape[axis] // self._layout.tp
        local = Box.whole(shape).with_range(axis, (0, part))
        for tp in range(self._layout.tp):
            label = self._over_ep(stage, tp, name, local.shape)
            box = Box.whole(shape).with_range(axis, (tp * part, (tp + 1) * part))
            self._piece(parameter, box, label, local)

    def _halves(self, stage: _Stage, parameter: str, shape: Shape, name: str) -> None:
        """A dense MLP's linear_fc1 [2, F, H]: a rank holds its rows of both halves."""
        _, ffn, hidden = shape
        part = ffn // self._layout.tp
        for tp in range(self._layout.tp):
            label = self._over_ep(stage, tp, name, (2 * part, hidden))
            for half in (0, 1):
                box = Box.of((half, half + 1), (tp * part, (tp + 1) * part), (0, hidden))
                rows = Box.of((half * part, (half + 1) * part), (0, hidden))
                self._piece(parameter, box, label, rows)

    def _experts(
        self, stage: _Stage, prefix: str, linear: str, parameter: str, shape: Shape
    ) -> None:
        """linear_fc1 [E, 2, F, H] or linear_fc2 [E, H, F] of all experts of a layer."""
        matrices = ExpertMatrices(linear, shape, self._layout, prefix, stage.names)
        for (tp, ep), file in stage.files.items():
            for index in range(matrices.per_rank):
                name, stored_shape = matrices.stored(index)
                label = self._tensor(file, stage.chunk, name, stored_shape)
                if matrices.is_grouped:
                    self.table.in_memory[label] = matrices.grouped_shape
                for box, tensor_box in matrices.blocks(tp, ep, index):
                    self.table.pieces.append(
                        Piece(parameter, box, label, tensor_box, matrices.is_grouped)
                    )

    def _vocabulary(self, stage: _Stage, parameter: str, shape: Shape) -> None:
        """Rows divided over TP, the last ones padding."""
        vocabulary, hidden = shape
        tp_size = self._layout.tp
        rows = self._vocabulary_rows(stage, parameter, vocabulary)
        for tp in range(tp_size):
            label = self._over_ep(stage, tp, parameter, (rows, hidden))
            real = min(rows, vocabulary - tp * rows)  # 0 or less on a rank that has padding alone
            if real > 0:
                box = Box.of((tp * rows, tp * rows + real), (0, hidden))
                self._piece(parameter, box, label, Box.of((0, real), (0, hidden)))
        if rows * tp_size > vocabulary:
            self.table.padding[parameter] = rows * tp_size - vocabulary

    def _vocabulary_rows(self, stage: _Stage, parameter: str, vocabulary: int) -> int:
        """Rows on each TP rank, padding included: by the args, or else by the tensor itself."""
        file, tp_size = stage.files[0, 0], self._layout.tp
        padded, stored = file.settings.get("padded_vocab_size"), stage.names.get(parameter)
        if type(padded) is int:
            rows = padded // tp_size
        else:
            rows = stored.shape[0] if stored and stored.shape else vocabulary // tp_size
        if rows * tp_size < vocabulary:
            raise WeightError(
                f"{file.path}: {parameter} has {rows} rows on each of {tp_size} tensor ranks, "
                f"the model's vocabulary has {vocabulary} entries."
            )
        return rows

    def _tied_copy(self, first: _Stage, last: _Stage) -> None:
        """A tied model's last stage holds the embedding once more."""
        for tp in range(self._layout.tp):
            label = first.files[tp, 0].label(0, EMBEDDING)
            copy = self._over_ep(last, tp, OUTPUT, self.table.shapes[label])
            self._make_copy(copy, label)


def _no_rule(parameter: str) -> WeightError:
    return WeightError(f"{parameter}: Megatron's per-rank files have no rule for it.")
