"""Which block of which file is which block of ours: the rules of legacy/__init__.py as pieces."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ml_models.config import ModelConfig
from ml_models.errors import LayoutError, WeightError
from ml_models.formats.megatron.names import LAYER, NAMES
from ml_models.formats.megatron_ranks.layout import Layout
from ml_models.formats.megatron_ranks.ranks import RankFile
from ml_models.weights.arrays import StoredTensor
from ml_models.weights.maps import Box, Piece, Shape, box_of

EMBEDDING, OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
_EXPERT = re.compile(r"mlp\.experts\.(linear_fc[12])\.weight")
SEQUENTIAL, TE_GROUPED = "mlp.experts.local_experts.{}.{}.weight", "mlp.experts.{}.weight{}"
GROUPED = {"linear_fc1": "mlp.experts.weight1", "linear_fc2": "mlp.experts.weight2"}


@dataclass
class Table:
    """Every tensor that the files must hold, and what it is."""

    pieces: list[Piece] = field(default_factory=list)
    places: dict[str, StoredTensor] = field(default_factory=dict)
    """Label -> place, of what the files hold and the model has a use for."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Label -> the shape that it must have, replicas too; rows of padding count."""
    in_memory: dict[str, Shape] = field(default_factory=dict)
    """Label -> what the numbers of a GroupedMLP's matrix really are: one matrix per expert."""
    copies: dict[str, list[str]] = field(default_factory=dict)
    """Label of what is read -> labels of what must equal it."""
    padding: dict[str, int] = field(default_factory=dict)
    """Ours -> rows beyond the vocabulary, over all ranks."""


@dataclass
class _Place:
    """A chunk in all TP and EP ranks of one stage."""

    files: Mapping[tuple[int, int], RankFile]  # (tp, ep)
    chunk: int

    def first(self, names: tuple[str, ...]) -> str:
        """Which of the names the files use."""
        held = self.files[0, 0].chunks[self.chunk]
        return next((name for name in names if name in held), names[0])


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
        """Rules for all of our parameters."""
        last = self._layout.vp - 1, self._layout.pp - 1
        for ours, shape in shapes.items():
            if ours == EMBEDDING:
                self._vocabulary(self._stage(0, 0), ours, shape)
            elif ours == OUTPUT:
                self._vocabulary(self._stage(*last), ours, shape)
            elif ours == FINAL_NORM:
                self._replicated(self._stage(*last), ours, shape, ours)
            elif match := LAYER.fullmatch(ours):
                self._layer(int(match[1]), match[2], ours, shape)
            else:
                raise WeightError(f"{ours}: Megatron's per-rank files have no rule for it.")
        if OUTPUT not in shapes and self._layout.pp > 1:
            self._tied_copy(self._stage(*last))
        return self.table

    def _stage(self, chunk: int, pp: int) -> _Place:
        files = {(tp, ep): file for (p, tp, ep), file in self._files.items() if p == pp}
        return _Place(files, chunk)

    def _layer(self, layer: int, inner: str, ours: str, shape: Shape) -> None:
        per_chunk = self._model.num_layers // (self._layout.pp * self._layout.vp)
        chunk, within = divmod(layer, per_chunk * self._layout.pp)
        pp, local = divmod(within, per_chunk)
        stage, prefix = self._stage(chunk, pp), f"decoder.layers.{local}."
        if match := _EXPERT.fullmatch(inner):
            self._experts(stage, prefix, match[1], ours, shape)
            return
        choices = NAMES.get(inner, (inner,))
        name = stage.first(tuple(prefix + choice for choice in choices))
        if inner == "mlp.linear_fc1.weight":
            self._halves(stage, ours, shape, name)
        elif inner in ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight"):
            self._divided(stage, ours, shape, name, axis=1)
        elif inner == "self_attention.linear_qkv.weight":
            self._divided(stage, ours, shape, name, axis=0)
        elif len(shape) == 1 or inner == "mlp.router.weight":
            self._replicated(stage, ours, shape, name)
        else:
            raise WeightError(f"{ours}: Megatron's per-rank files have no rule for it.")

    def _tensor(self, file: RankFile, chunk: int, name: str, shape: Shape) -> str:
        """Note a tensor that must be there; its label."""
        label = file.label(chunk, name)
        self.table.shapes[label] = shape
        if name in file.chunks[chunk]:
            self.table.places[label] = file.chunks[chunk][name]
        return label

    def _over_ep(self, stage: _Place, tp: int, name: str, shape: Shape) -> str:
        """A tensor that all EP ranks hold: the label of the first, the others being copies."""
        labels = [
            self._tensor(stage.files[tp, ep], stage.chunk, name, shape)
            for ep in range(self._layout.ep)
        ]
        self.table.copies.setdefault(labels[0], []).extend(labels[1:])
        return labels[0]

    def _replicated(self, stage: _Place, ours: str, shape: Shape, name: str) -> None:
        labels = [self._over_ep(stage, tp, name, shape) for tp in range(self._layout.tp)]
        for label in labels[1:]:
            others = [label, *self.table.copies.pop(label)]
            self.table.copies[labels[0]].extend(others)
        self.table.pieces.append(Piece(ours, box_of(shape), labels[0], box_of(shape)))

    def _divided(self, stage: _Place, ours: str, shape: Shape, name: str, axis: int) -> None:
        part = shape[axis] // self._layout.tp
        held = tuple(part if at == axis else size for at, size in enumerate(shape))
        for tp in range(self._layout.tp):
            label = self._over_ep(stage, tp, name, held)
            box = _with(box_of(shape), axis, (tp * part, (tp + 1) * part))
            self.table.pieces.append(Piece(ours, box, label, box_of(held)))

    def _halves(self, stage: _Place, ours: str, shape: Shape, name: str) -> None:
        """A dense MLP's linear_fc1: ours [2, F, H]."""
        _, ffn, hidden = shape
        part = ffn // self._layout.tp
        for tp in range(self._layout.tp):
            label = self._over_ep(stage, tp, name, (2 * part, hidden))
            for half in (0, 1):
                rows = ((half * part, (half + 1) * part), (0, hidden))
                box = ((half, half + 1), (tp * part, (tp + 1) * part), (0, hidden))
                self.table.pieces.append(Piece(ours, box, label, rows))

    def _experts(self, stage: _Place, prefix: str, linear: str, ours: str, shape: Shape) -> None:
        """Ours [E, 2, F, H] or [E, H, F]; there, one tensor per expert or one for all of a rank."""
        local = shape[0] // self._layout.ep
        held = stage.files[0, 0].chunks[stage.chunk]
        te = prefix + TE_GROUPED.format(linear, "{}")
        single = te if te.format(0) in held else prefix + SEQUENTIAL.format("{}", linear)
        sizes = self._held(linear, shape)
        for (tp, ep), file in stage.files.items():
            for at in range(local):
                if prefix + GROUPED[linear] in held:
                    label = self._grouped(file, stage.chunk, prefix, linear, (local, *sizes[::-1]))
                else:
                    label = self._tensor(file, stage.chunk, single.format(at), sizes)
                expert = (ep * local + at, ep * local + at + 1)
                for box, rows in self._matrix(linear, shape, tp):
                    turned = label in self.table.in_memory
                    theirs: Box = ((at, at + 1), *rows[::-1]) if turned else rows
                    self.table.pieces.append(Piece(ours, (expert, *box), label, theirs, turned))

    def _grouped(
        self, file: RankFile, chunk: int, prefix: str, linear: str, in_memory: Shape
    ) -> str:
        """A GroupedMLP's matrix: [K, E*N] for linear_fc1, [E*K, N] for linear_fc2."""
        experts, rows, columns = in_memory
        flat = (rows, experts * columns) if linear == "linear_fc1" else (experts * rows, columns)
        label = self._tensor(file, chunk, prefix + GROUPED[linear], flat)
        self.table.in_memory[label] = in_memory
        return label

    def _held(self, linear: str, shape: Shape) -> Shape:
        """One expert's matrix on one TP rank."""
        if linear == "linear_fc1":
            return 2 * shape[2] // self._layout.tp, shape[3]
        return shape[1], shape[2] // self._layout.tp

    def _matrix(self, linear: str, shape: Shape, tp: int) -> Iterator[tuple[Box, Box]]:
        """(block of ours without the expert's axis, block of the rank's matrix) of one expert."""
        part = self._model.ffn_hidden_size // self._layout.tp
        ffn = (tp * part, (tp + 1) * part)
        if linear == "linear_fc2":
            whole = (0, shape[1])
            yield (whole, ffn), (whole, (0, part))
            return
        for half in (0, 1):
            columns = (0, shape[3])
            yield ((half, half + 1), ffn, columns), ((half * part, (half + 1) * part), columns)

    def _vocabulary(self, stage: _Place, ours: str, shape: Shape) -> None:
        """Rows divided over TP, the last ones padding."""
        vocabulary, hidden = shape
        file = stage.files[0, 0]
        stored = file.chunks[stage.chunk].get(ours)
        padded = file.settings.get("padded_vocab_size")
        if type(padded) is int:
            rows = padded // self._layout.tp
        else:
            rows = stored.shape[0] if stored and stored.shape else vocabulary // self._layout.tp
        if rows * self._layout.tp < vocabulary:
            raise WeightError(
                f"{file.path}: {ours} has {rows} rows on each of {self._layout.tp} tensor ranks, "
                f"the model's vocabulary has {vocabulary} entries."
            )
        for tp in range(self._layout.tp):
            label = self._over_ep(stage, tp, ours, (rows, hidden))
            real = min(rows, vocabulary - tp * rows)
            if real > 0:
                box = ((tp * rows, tp * rows + real), (0, hidden))
                self.table.pieces.append(Piece(ours, box, label, ((0, real), (0, hidden))))
        if rows * self._layout.tp > vocabulary:
            self.table.padding[ours] = rows * self._layout.tp - vocabulary

    def _tied_copy(self, last: _Place) -> None:
        """A tied model's last stage holds the embedding once more."""
        first = self._stage(0, 0)
        for tp in range(self._layout.tp):
            label = first.files[tp, 0].label(0, EMBEDDING)
            shape = self.table.shapes[label]
            copy = self._over_ep(last, tp, OUTPUT, shape)
            others = [copy, *self.table.copies.pop(copy)]
            self.table.copies[label].extend(others)


def _with(box: Box, axis: int, part: tuple[int, int]) -> Box:
    return (*box[:axis], part, *box[axis + 1 :])
