"""Weight maps as data: which block of which parameter is which block of a format's tensor.

An architecture gives one table of `Row`s per format (grok1/weights.py, mixtral/weights.py). A table
and a configuration make `Piece`s: pairs of boxes of equal size, at most two axes wide, the leading
axes indexed. Reading, writing, the inverse and the audit all follow from the pieces, so that no
direction can disagree with another.

A parameter has megatron-core's name and its whole shape, see weights/parameters.py. A tensor has
the format's name.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.weights.boxes import Box, Range, Shape, matrices, volume

Part = Literal[
    "whole", "query", "key", "value", "expert_gate", "expert_up", "expert_down", "gate", "up"
]
"""What of a parameter a row is: gate and up are the halves of a dense MLP's linear_fc1."""


@dataclass(frozen=True)
class Row:
    """One line of a weight map; {layer} and {expert} stand for numbers."""

    parameter: str
    tensor: str
    part: Part = "whole"
    transposed: bool = False
    """The format's matrix is [in, out], the parameter's [out, in]."""
    stacked: bool = False
    """The format's tensor holds all experts, on axis 0."""


@dataclass(frozen=True)
class Piece:
    """A block of a parameter and the block of a format's tensor that holds the same numbers."""

    parameter: str
    parameter_box: Box
    tensor: str
    tensor_box: Box
    transposed: bool = False

    def to_tensor(self, box: Box) -> Box:
        """The block of the tensor that matches `box`, a block of the parameter in this piece."""
        return self._carry(box, self.parameter_box, self.tensor_box)

    def to_parameter(self, box: Box) -> Box:
        """The block of the parameter that matches `box`, a block of the tensor in this piece."""
        return self._carry(box, self.tensor_box, self.parameter_box)

    def _carry(self, box: Box, origin: Box, target: Box) -> Box:
        """`box` of the block `origin` as a box of the block `target`.

        The blocks differ in their leading axes, which have a single index on both sides. The axes
        that they share are the last one or two: those are carried over, the others stay.
        """
        shared = min(2, len(origin), len(target))
        offsets = Box(box.within(origin)[-shared:])
        if self.transposed:
            offsets = Box(offsets[::-1])
        lead, matrix = target[:-shared], Box(target[-shared:])
        return offsets.moved(matrix.starts).behind(*lead)


@dataclass(frozen=True)
class WeightMap:
    """All pieces of one model in one format, by either name, and the shapes that follow."""

    by_parameter: Mapping[str, tuple[Piece, ...]]
    by_tensor: Mapping[str, tuple[Piece, ...]]
    parameter_shapes: Mapping[str, Shape]
    tensor_shapes: Mapping[str, Shape]


def build_map(rows: Sequence[Row], shapes: Mapping[str, Shape], model: ModelConfig) -> WeightMap:
    """The pieces that a table makes for `model`; every element of a parameter is in one of them."""
    pieces = []
    for row in rows:
        layers = range(model.num_layers) if "{layer}" in row.parameter else (0,)
        for layer in layers:
            parameter = row.parameter.format(layer=layer)
            for parameter_box, tensor_box, expert in _blocks(row, shapes[parameter], model):
                # The axis of the experts is in front of the matrix, which is transposed alone.
                if row.transposed:
                    tensor_box = tensor_box.transposed()
                if row.stacked:
                    tensor_box = tensor_box.behind((expert, expert + 1))
                tensor = row.tensor.format(layer=layer, expert=expert)
                pieces.append(Piece(parameter, parameter_box, tensor, tensor_box, row.transposed))
    return map_of(pieces, shapes)


def _blocks(row: Row, shape: Shape, model: ModelConfig) -> Iterator[tuple[Box, Box, int]]:
    """(block of the parameter, block of the tensor before transposition, expert) per piece."""
    matrix = Box.whole(shape[-2:])
    if row.part == "whole":
        yield Box.whole(shape), Box.whole(shape), 0
    elif row.part in ("query", "key", "value"):
        for rows, tensor_rows in _heads(row.part, model):
            yield matrix.with_range(0, rows), matrix.with_range(0, tensor_rows), 0
    elif row.part in ("gate", "up"):
        half = (0, 1) if row.part == "gate" else (1, 2)
        yield matrix.behind(half), matrix, 0
    else:
        halves: dict[str, tuple[Range, ...]] = {
            "expert_gate": ((0, 1),),
            "expert_up": ((1, 2),),
            "expert_down": (),
        }
        for expert in range(model.num_experts):
            yield matrix.behind((expert, expert + 1), *halves[row.part]), matrix, expert


def _heads(part: str, model: ModelConfig) -> Iterator[tuple[Range, Range]]:
    """Per query group, rows of linear_qkv and the rows of the format's own matrix of the part.

    linear_qkv has a block per group: the rows of its query heads, then its key, then its value.
    """
    head = model.kv_channels
    # Query head j belongs to the group j // (heads / groups), in the formats as well.
    wide = model.num_attention_heads // model.num_query_groups * head
    start, rows = {"query": (0, wide), "key": (wide, head), "value": (wide + head, head)}[part]
    for group in range(model.num_query_groups):
        first = group * (wide + 2 * head) + start
        yield (first, first + rows), (group * rows, (group + 1) * rows)


def identity_map(shapes: Mapping[str, Shape]) -> WeightMap:
    """Parameters to themselves: what Megatron's distributed checkpoints hold."""
    boxes = ((name, box) for name, shape in shapes.items() for box in matrices(shape))
    return map_of([Piece(name, box, name, box) for name, box in boxes], shapes)


def map_of(pieces: Iterable[Piece], shapes: Mapping[str, Shape]) -> WeightMap:
    """The map that pieces make up; WeightError unless they cover both sides exactly once."""
    by_parameter: dict[str, list[Piece]] = defaultdict(list)
    by_tensor: dict[str, list[Piece]] = defaultdict(list)
    tensor_shapes: dict[str, Shape] = {}
    for piece in pieces:
        by_parameter[piece.parameter].append(piece)
        by_tensor[piece.tensor].append(piece)
        stops = piece.tensor_box.stops
        known = tensor_shapes.get(piece.tensor, stops)
        tensor_shapes[piece.tensor] = tuple(max(pair) for pair in zip(known, stops, strict=True))
    weights = WeightMap(
        {name: tuple(group) for name, group in by_parameter.items()},
        {name: tuple(group) for name, group in by_tensor.items()},
        dict(shapes),
        tensor_shapes,
    )
    audit_cover(weights)
    return weights


def audit_cover(weights: WeightMap) -> None:
    """Every element on both sides lies in exactly one piece, or WeightError names the tensors."""
    faults = []
    for name, shape in weights.parameter_shapes.items():
        boxes = [piece.parameter_box for piece in weights.by_parameter.get(name, ())]
        faults += _cover_faults(name, shape, boxes)
    for name, shape in weights.tensor_shapes.items():
        boxes = [piece.tensor_box for piece in weights.by_tensor[name]]
        faults += _cover_faults(name, shape, boxes)
    faults += [
        f"{name} is no parameter"
        for name in weights.by_parameter
        if name not in weights.parameter_shapes
    ]
    if faults:
        raise WeightError(f"the weight map is wrong: {'; '.join(faults[:10])}.")


def _cover_faults(name: str, shape: Shape, boxes: Sequence[Box]) -> list[str]:
    # With the right total, every element is covered once unless two boxes overlap.
    covered, total = sum(box.volume for box in boxes), volume(shape)
    if covered != total:
        return [f"{name}: {covered} of {total} elements are mapped"]
    # Boxes sorted by their first range: once one begins behind this box, no later one overlaps it.
    ordered = sorted(boxes)
    for position, box in enumerate(ordered):
        for other in ordered[position + 1 :]:
            if other[0][0] >= box[0][1]:
                break
            if box.intersection(other):
                return [f"{name}: elements are mapped twice"]
    return []
