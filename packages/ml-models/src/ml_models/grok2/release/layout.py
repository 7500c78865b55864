"""Names of the release's files, what each holds, and the weight map of its slices.

The experts' matrices alone are cut: w1 and w3 by rows, w2 by columns, in the order of the ranks.
Sources, as no file of the release was at hand: the Tenstorrent port that loads the files, and
llama.cpp's conversion/grok.py @7bca1fd9 ((w1, 0), (w2, 1), (w3, 0)); docs/fidelity-grok2.md.
"""

import re
from dataclasses import dataclass

from ml_models.grok2 import weights as tables
from ml_models.grok2.config import Grok2Config
from ml_models.weights.maps import Piece, WeightMap, build_map, map_of

PATTERN = "pytorch_model-*-TP-*.safetensors"
_FILE = re.compile(r"pytorch_model-(?P<kind>\d{5})-TP-(?P<rank>common|\d{3})\.safetensors")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_LAYER, _EXPERT = "model.layers.N.", "model.layers.N.block_sparse_moe.experts.N."
# The position in this list is the number in the file's name.
KINDS = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.norm.weight",
    f"{_LAYER}mlp.gate_proj.weight",
    f"{_LAYER}mlp.down_proj.weight",
    f"{_LAYER}mlp.up_proj.weight",
    f"{_EXPERT}w1.weight",
    f"{_EXPERT}w2.weight",
    f"{_EXPERT}w3.weight",
    f"{_LAYER}self_attn.k_proj.weight",
    f"{_LAYER}self_attn.o_proj.weight",
    f"{_LAYER}self_attn.q_proj.weight",
    f"{_LAYER}self_attn.v_proj.weight",
    f"{_LAYER}pre_attn_norm.weight",
    f"{_LAYER}post_attn_norm.weight",
    f"{_LAYER}pre_moe_norm.weight",
    f"{_LAYER}post_moe_norm.weight",
    f"{_LAYER}block_sparse_moe.gate.weight",
)
_CUT_AXES = {f"{_EXPERT}w1.weight": 0, f"{_EXPERT}w2.weight": 1, f"{_EXPERT}w3.weight": 0}
_SLICE = re.compile(r"(?P<tensor>.+) \[TP-(?P<rank>\d{3})\]")


@dataclass(frozen=True, order=True)
class FileName:
    """What a file's name says: the number of its kind, and its rank, -1 for common."""

    kind: int
    rank: int = -1

    def __str__(self) -> str:
        rank = "common" if self.rank < 0 else f"{self.rank:03d}"
        return f"pytorch_model-{self.kind:05d}-TP-{rank}.safetensors"


def parse_file_name(name: str) -> FileName | None:
    """The parts of a file's name; None for a name of another form."""
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    return FileName(int(match["kind"]), -1 if match["rank"] == "common" else int(match["rank"]))


def kind_of(tensor: str) -> int:
    """The number of the files that hold a tensor of this name."""
    return KINDS.index(_NUMBER.sub("N", tensor))


def cut_axis(tensor: str) -> int | None:
    """The axis on which ranks share a tensor; None for a tensor that is whole."""
    return _CUT_AXES.get(_NUMBER.sub("N", tensor))


def slice_name(tensor: str, rank: int) -> str:
    """What a rank's slice is called in weight maps and reports; its file has the tensor's name."""
    return f"{tensor} [TP-{rank:03d}]"


def tensor_and_rank(name: str) -> tuple[str, int]:
    """A tensor's name in its file, and its rank; -1 for a whole tensor."""
    match = _SLICE.fullmatch(name)
    return (name, -1) if match is None else (match["tensor"], int(match["rank"]))


def file_of(name: str) -> FileName:
    """The file in which the release has a tensor or a slice."""
    tensor, rank = tensor_and_rank(name)
    return FileName(kind_of(tensor), rank)


def whole_map(model: Grok2Config) -> WeightMap:
    """The weight map of the plain form, whose names the release shares."""
    return build_map(tables.huggingface_rows(model), tables.shapes(model), model)


def presharded_map(model: Grok2Config, num_ranks: int) -> WeightMap:
    """The weight map of the release's form; `num_ranks` divides the experts' width."""
    whole = whole_map(model)
    pieces: list[Piece] = []
    for tensor, group in whole.by_tensor.items():
        axis = cut_axis(tensor)
        if axis is None:
            pieces += group
            continue
        width = whole.tensor_shapes[tensor][axis] // num_ranks
        for piece in group:
            for rank in range(num_ranks):
                box = piece.tensor_box.with_range(axis, (rank * width, (rank + 1) * width))
                pieces.append(
                    Piece(
                        piece.parameter,
                        piece.to_parameter(box),
                        slice_name(tensor, rank),
                        box.with_range(axis, (0, width)),
                    )
                )
    return map_of(pieces, whole.parameter_shapes)
