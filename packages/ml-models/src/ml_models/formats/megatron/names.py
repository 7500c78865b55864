"""Distributed checkpoints of stock Megatron models: other keys than ours for the same numbers.

| ours | there |
|---|---|
| decoder.layers.5.X [..] | decoder.layers.X [L, ..], or decoder.layers.5.X if layers differ |
| mlp.experts.linear_fc1.weight [E, 2, F, H] | mlp.experts.experts.linear_fc1.weight [E, 2F, H] |
| mlp.experts.linear_fc2.weight [E, H, F] | mlp.experts.experts.linear_fc2.weight [E, H, F] |
| input_layernorm.weight | self_attention.linear_qkv.layer_norm_weight |
| pre_mlp_layernorm.weight | the same, or mlp.linear_fc1.layer_norm_weight |

That is what `sharded_state_dict` of GPTModel gives with SequentialMLP, GroupedMLP and
TransformerEngine in megatron-core 0.12.1 and 0.16.1.
Keys of experts one by one (singleton_local_shards) are not read.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from ml_models.weights.maps import Box, Piece, Shape, WeightMap, box_of, map_of

# Ours within a layer -> what Megatron may call it; the first is named in errors.
NAMES: Mapping[str, tuple[str, ...]] = {
    "input_layernorm.weight": (
        "input_layernorm.weight",
        "self_attention.linear_qkv.layer_norm_weight",
    ),
    "post_attention_layernorm.weight": ("post_attn_norm.weight",),
    "pre_mlp_layernorm.weight": ("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"),
}
LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_FC1 = re.compile(r"mlp\.(experts\.)?linear_fc1\.weight")


def is_stock(names: Collection[str]) -> bool:
    """Whether keys are those of a stock model."""
    layers = [name for name in names if name.startswith("decoder.layers.")]
    return any(not LAYER.fullmatch(name) or ".experts.experts." in name for name in layers)


def stock_map(shapes: Mapping[str, Shape], names: Collection[str]) -> WeightMap:
    """Our parameters in the keys that `names` has."""
    pieces = []
    for ours, shape in shapes.items():
        match = LAYER.fullmatch(ours)
        if match is None:
            pieces.append(Piece(ours, box_of(shape), ours, box_of(shape)))
            continue
        layer, inner = int(match[1]), match[2]
        inner = inner.replace("mlp.experts.", "mlp.experts.experts.")
        key, lead = _key(layer, NAMES.get(inner, (inner,)), names)
        for box, theirs in _matrices(match[2], shape):
            pieces.append(Piece(ours, box, key, (*lead, *theirs)))
    return map_of(pieces, shapes)


def _key(layer: int, choices: tuple[str, ...], names: Collection[str]) -> tuple[str, Box]:
    """The key that is there, and the layer's place on its first axis if it holds all layers."""
    for inner in choices:
        if (own := f"decoder.layers.{layer}.{inner}") in names:
            return own, ()
        if (stacked := f"decoder.layers.{inner}") in names:
            return stacked, ((layer, layer + 1),)
    return f"decoder.layers.{choices[0]}", ((layer, layer + 1),)


def _matrices(inner: str, shape: Shape) -> Iterator[tuple[Box, Box]]:
    """(block of ours, block of theirs within the layer): linear_fc1 by halves, experts by one."""
    if match := _FC1.fullmatch(inner):
        ffn, hidden = shape[-2:]
        experts = range(shape[0]) if match[1] else (None,)
        for expert in experts:
            one: Box = () if expert is None else ((expert, expert + 1),)
            for half in (0, 1):
                rows = (half * ffn, (half + 1) * ffn)
                yield (
                    (*one, (half, half + 1), (0, ffn), (0, hidden)),
                    (*one, rows, (0, hidden)),
                )
    elif len(shape) == 3:
        for expert in range(shape[0]):
            box = ((expert, expert + 1), *box_of(shape[1:]))
            yield box, box
    else:
        yield box_of(shape), box_of(shape)
