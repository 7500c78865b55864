"""Distributed checkpoints of stock Megatron models: other keys for the same numbers.

| parameter | key there |
|---|---|
| decoder.layers.5.X [..] | decoder.layers.X [L, ..], or decoder.layers.5.X if layers differ |
| mlp.experts.linear_fc1.weight [E, 2, F, H] | mlp.experts.experts.linear_fc1.weight [E, 2F, H] |
| mlp.experts.linear_fc2.weight [E, H, F] | mlp.experts.experts.linear_fc2.weight [E, H, F] |
| input_layernorm.weight | self_attention.linear_qkv.layer_norm_weight |
| pre_mlp_layernorm.weight | the same, or mlp.linear_fc1.layer_norm_weight |

That is what `sharded_state_dict` of GPTModel gives with SequentialMLP, GroupedMLP and
TransformerEngine in megatron-core 0.12.1 and 0.16.1.
A key per expert (singleton_local_shards) is not read.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from ml_models.weights.boxes import Box, Shape, matrices
from ml_models.weights.maps import Piece, WeightMap, map_of

NAMES: Mapping[str, tuple[str, ...]] = {
    "input_layernorm.weight": (
        "input_layernorm.weight",
        "self_attention.linear_qkv.layer_norm_weight",
    ),
    "post_attention_layernorm.weight": ("post_attn_norm.weight",),
    "pre_mlp_layernorm.weight": ("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"),
}
"""Parameter within a layer -> what Megatron may call it; errors name the first."""
LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_FC1 = re.compile(r"mlp\.(experts\.)?linear_fc1\.weight")


def is_stock(names: Collection[str]) -> bool:
    """Whether keys are those of a stock model."""
    layers = [name for name in names if name.startswith("decoder.layers.")]
    return any(not LAYER.fullmatch(name) or ".experts.experts." in name for name in layers)


def stock_map(shapes: Mapping[str, Shape], keys: Collection[str]) -> WeightMap:
    """Parameters in the keys of a checkpoint, of which `keys` tells the alternatives."""
    pieces = []
    for parameter, shape in shapes.items():
        match = LAYER.fullmatch(parameter)
        if match is None:
            pieces.append(Piece(parameter, Box.whole(shape), parameter, Box.whole(shape)))
            continue
        layer, inner = int(match[1]), match[2]
        inner = inner.replace("mlp.experts.", "mlp.experts.experts.")
        key, lead = _key(layer, NAMES.get(inner, (inner,)), keys)
        for parameter_box, tensor_box in _blocks(match[2], shape):
            pieces.append(Piece(parameter, parameter_box, key, tensor_box.behind(*lead)))
    return map_of(pieces, shapes)


def _key(layer: int, choices: tuple[str, ...], keys: Collection[str]) -> tuple[str, Box]:
    """The key that is there, and the layer's index on its first axis if it holds all layers."""
    for inner in choices:
        if (key := f"decoder.layers.{layer}.{inner}") in keys:
            return key, Box()
        if (key := f"decoder.layers.{inner}") in keys:
            return key, Box.of((layer, layer + 1))
    return f"decoder.layers.{choices[0]}", Box.of((layer, layer + 1))


def _blocks(inner: str, shape: Shape) -> Iterator[tuple[Box, Box]]:
    """(block of the parameter, block of the tensor within the layer).

    The two halves of linear_fc1 follow each other on one axis of the tensor; the parameter has an
    axis of its own for them.
    """
    if _FC1.fullmatch(inner):
        ffn, hidden = shape[-2:]
        for box in matrices(shape):
            *expert, half = box[:-2]
            first = half[0] * ffn
            yield box, Box((*expert, (first, first + ffn), (0, hidden)))
    else:
        for box in matrices(shape):
            yield box, box
