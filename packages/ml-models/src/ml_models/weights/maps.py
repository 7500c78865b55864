"""Weight maps as data: which block of which of their tensors is which block of ours.

An architecture gives one table of `Row`s per format (grok1/weights.py, mixtral/weights.py). A table
and a configuration make `Piece`s: pairs of blocks of equal size, at most two axes wide, the leading
axes indexed. Reading, writing, the inverse and the audit all follow from the pieces, so that no
direction can disagree with another.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from ml_models.config import ModelConfig
from ml_models.errors import WeightError

Box = tuple[tuple[int, int], ...]  # (start, stop) per axis
Shape = tuple[int, ...]
Part = Literal[
    "whole", "query", "key", "value", "expert_gate", "expert_up", "expert_down", "gate", "up"
]
"""What of ours a row is: gate and up are the halves of a dense MLP's linear_fc1."""


@dataclass(frozen=True)
class Row:
    """One line of a weight map; {layer} and {expert} stand for numbers."""

    ours: str
    theirs: str
    part: Part = "whole"
    transposed: bool = False
    """Their matrix is [in, out], ours [out, in]."""
    stacked: bool = False
    """Their tensor holds all experts, on axis 0."""


@dataclass(frozen=True)
class Piece:
    """A block of ours and the block of theirs that holds the same numbers."""

    ours: str
    ours_box: Box
    theirs: str
    theirs_box: Box
    transposed: bool = False


@dataclass(frozen=True)
class WeightMap:
    """All pieces of one model in one format, by either name, and the shapes that follow."""

    pieces: tuple[Piece, ...]
    ours: Mapping[str, tuple[Piece, ...]]
    theirs: Mapping[str, tuple[Piece, ...]]
    ours_shapes: Mapping[str, Shape]
    theirs_shapes: Mapping[str, Shape]


def box_of(shape: Shape) -> Box:
    """The whole of a tensor."""
    return tuple((0, size) for size in shape)


def shape_of(box: Box) -> Shape:
    """Sizes of a block."""
    return tuple(stop - start for start, stop in box)


def volume(box: Box) -> int:
    """Elements of a block."""
    total = 1
    for start, stop in box:
        total *= stop - start
    return total


def intersection(one: Box, other: Box) -> Box | None:
    """What two blocks share, or None."""
    shared = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return shared if all(start < stop for start, stop in shared) else None


def our_shapes(model: ModelConfig, *, post_norms: bool, dense: bool = False) -> dict[str, Shape]:
    """Every parameter of ours with its whole shape, vocabulary without padding."""
    hidden, head = model.hidden_size, model.kv_channels
    query = model.num_attention_heads * head
    qkv = query + 2 * model.num_query_groups * head
    shapes: dict[str, Shape] = {"embedding.word_embeddings.weight": (model.vocab_size, hidden)}
    norms = ["input_layernorm", "pre_mlp_layernorm"]
    norms += ["post_attention_layernorm", "post_mlp_layernorm"] if post_norms else []
    experts, ffn = model.num_experts, model.ffn_hidden_size
    for layer in range(model.num_layers):
        name = f"decoder.layers.{layer}."
        shapes.update({f"{name}{norm}.weight": (hidden,) for norm in norms})
        shapes[f"{name}self_attention.linear_qkv.weight"] = (qkv, hidden)
        shapes[f"{name}self_attention.linear_proj.weight"] = (hidden, query)
        if dense:
            shapes[f"{name}mlp.linear_fc1.weight"] = (2, ffn, hidden)
            shapes[f"{name}mlp.linear_fc2.weight"] = (hidden, ffn)
            continue
        shapes[f"{name}mlp.router.weight"] = (experts, hidden)
        shapes[f"{name}mlp.experts.linear_fc1.weight"] = (experts, 2, ffn, hidden)
        shapes[f"{name}mlp.experts.linear_fc2.weight"] = (experts, hidden, ffn)
    shapes["decoder.final_layernorm.weight"] = (hidden,)
    if model.untie_embeddings_and_output_weights:
        shapes["output_layer.weight"] = (model.vocab_size, hidden)
    return shapes


def _blocks(row: Row, shape: Shape, model: ModelConfig) -> Iterator[tuple[Box, Box, int]]:
    """(block of ours, block of theirs before transposition, expert) per piece of a row."""
    if row.part == "whole":
        yield box_of(shape), box_of(shape), 0
        return
    if row.part in ("query", "key", "value"):
        head, groups = model.kv_channels, model.num_query_groups
        wide = model.num_attention_heads // groups * head
        start, rows = {"query": (0, wide), "key": (wide, head), "value": (wide + head, head)}[
            row.part
        ]
        for group in range(groups):
            first = group * (wide + 2 * head) + start
            columns = (0, shape[1])
            yield (
                ((first, first + rows), columns),
                ((group * rows, (group + 1) * rows), columns),
                0,
            )
        return
    if row.part in ("gate", "up"):
        half = (0, 1) if row.part == "gate" else (1, 2)
        yield (half, *box_of(shape[-2:])), box_of(shape[-2:]), 0
        return
    for expert in range(model.num_experts):
        matrix = box_of(shape[-2:])
        halves = {"expert_gate": ((0, 1),), "expert_up": ((1, 2),), "expert_down": ()}[row.part]
        yield ((expert, expert + 1), *halves, *matrix), matrix, expert


def build_map(rows: Sequence[Row], shapes: Mapping[str, Shape], model: ModelConfig) -> WeightMap:
    """The pieces that a table makes for `model`; every element of ours is in exactly one."""
    pieces = []
    for row in rows:
        layers = range(model.num_layers) if "{layer}" in row.ours else (0,)
        for layer in layers:
            ours = row.ours.format(layer=layer)
            for ours_box, theirs_box, expert in _blocks(row, shapes[ours], model):
                if row.transposed:
                    theirs_box = (*theirs_box[:-2], theirs_box[-1], theirs_box[-2])
                if row.stacked:
                    theirs_box = ((expert, expert + 1), *theirs_box)
                theirs = row.theirs.format(layer=layer, expert=expert)
                pieces.append(Piece(ours, ours_box, theirs, theirs_box, row.transposed))
    return map_of(pieces, shapes)


def identity_map(shapes: Mapping[str, Shape]) -> WeightMap:
    """Ours to ours: what Megatron's distributed checkpoints hold."""
    pieces = []
    for name, shape in shapes.items():
        for box in _leading(shape):
            pieces.append(Piece(name, box, name, box))
    return map_of(pieces, shapes)


def _leading(shape: Shape) -> Iterator[Box]:
    """Blocks of at most two axes that cover a tensor."""
    lead, matrix = shape[:-2], shape[-2:]
    for index in product(*(range(size) for size in lead)):
        yield (*((at, at + 1) for at in index), *box_of(matrix))


def map_of(pieces: Iterable[Piece], shapes: Mapping[str, Shape]) -> WeightMap:
    """The map that pieces make up; WeightError unless they cover both sides exactly once."""
    by_ours: dict[str, list[Piece]] = defaultdict(list)
    by_theirs: dict[str, list[Piece]] = defaultdict(list)
    ends: dict[str, Shape] = {}
    for piece in pieces:
        by_ours[piece.ours].append(piece)
        by_theirs[piece.theirs].append(piece)
        stops = tuple(stop for _, stop in piece.theirs_box)
        known = ends.get(piece.theirs, stops)
        ends[piece.theirs] = tuple(max(pair) for pair in zip(known, stops, strict=True))
    result = WeightMap(
        tuple(pieces),
        {name: tuple(found) for name, found in by_ours.items()},
        {name: tuple(found) for name, found in by_theirs.items()},
        dict(shapes),
        ends,
    )
    audit_cover(result)
    return result


def audit_cover(weights: WeightMap) -> None:
    """Every element on both sides lies in exactly one piece, or WeightError names the tensors."""
    faults = []
    for name, shape in weights.ours_shapes.items():
        boxes = [piece.ours_box for piece in weights.ours.get(name, ())]
        faults += _cover_faults(name, shape, boxes)
    for name, shape in weights.theirs_shapes.items():
        boxes = [piece.theirs_box for piece in weights.theirs[name]]
        faults += _cover_faults(name, shape, boxes)
    faults += [
        f"{name} is no parameter" for name in weights.ours if name not in weights.ours_shapes
    ]
    if faults:
        raise WeightError(f"the weight map is wrong: {'; '.join(faults[:10])}.")


def _cover_faults(name: str, shape: Shape, boxes: Sequence[Box]) -> list[str]:
    covered, total = sum(map(volume, boxes)), volume(box_of(shape))
    if covered != total:
        return [f"{name}: {covered} of {total} elements are mapped"]
    ordered = sorted(boxes)
    for at, box in enumerate(ordered):
        for other in ordered[at + 1 :]:
            if other[0][0] >= box[0][1]:
                break
            if intersection(box, other):
                return [f"{name}: elements are mapped twice"]
    return []


def to_theirs(piece: Piece, ours: Box) -> Box:
    """The block of theirs that matches the block `ours`, which lies inside the piece."""
    matrix = len(piece.ours_box) - _lead(piece.ours_box, piece.theirs_box)
    offsets = [
        (start - base, stop - base)
        for (start, stop), (base, _) in zip(ours[-matrix:], piece.ours_box[-matrix:], strict=True)
    ]
    return _place(piece.theirs_box, offsets, piece.transposed)


def to_ours(piece: Piece, theirs: Box) -> Box:
    """The inverse of `to_theirs`."""
    matrix = len(piece.theirs_box) - _lead(piece.theirs_box, piece.ours_box)
    offsets = [
        (start - base, stop - base)
        for (start, stop), (base, _) in zip(
            theirs[-matrix:], piece.theirs_box[-matrix:], strict=True
        )
    ]
    return _place(piece.ours_box, offsets, piece.transposed)


def _lead(box: Box, other: Box) -> int:
    """Axes of `box` before the matrix or vector that both sides hold."""
    return len(box) - min(2, len(box), len(other))


def _place(box: Box, offsets: list[tuple[int, int]], transposed: bool) -> Box:
    if transposed:
        offsets = offsets[::-1]
    lead = box[: len(box) - len(offsets)]
    tail = box[len(lead) :]
    moved = [
        (base + start, base + stop) for (base, _), (start, stop) in zip(tail, offsets, strict=True)
    ]
    return (*lead, *moved)
