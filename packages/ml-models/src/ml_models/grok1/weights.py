"""Grok-1's weights: hpcai-tech's Hugging Face names and the haiku tree of xAI's release.

xAI's files are numbered in the order in which jax flattens the tree: sorted by name, so that
decoder_layer_10 follows decoder_layer_1. The output of `linear` passes the activation, that of
`linear_v` does not.
"""

from collections.abc import Sequence

from ml_models.grok1.config import Grok1Config
from ml_models.weights.boxes import Shape
from ml_models.weights.maps import Row
from ml_models.weights.parameters import parameter_shapes

LAYER = "decoder.layers.{layer}."
HF = "model.layers.{layer}."
HAIKU = "transformer/decoder_layer_{layer}/"

# (megatron-core, hpcai-tech, haiku): haiku numbers the norms of a layer in the order of their use.
NORMS = (
    ("input_layernorm", "pre_attn_norm", "rms_norm"),
    ("post_attention_layernorm", "post_attn_norm", "rms_norm_1"),
    ("pre_mlp_layernorm", "pre_moe_norm", "rms_norm_2"),
    ("post_mlp_layernorm", "post_moe_norm", "rms_norm_3"),
)
QKV = f"{LAYER}self_attention.linear_qkv.weight"
PROJ = f"{LAYER}self_attention.linear_proj.weight"
ROUTER = f"{LAYER}mlp.router.weight"
FC1 = f"{LAYER}mlp.experts.linear_fc1.weight"
FC2 = f"{LAYER}mlp.experts.linear_fc2.weight"
EXPERT = HF + "moe_block.experts.{expert}."

HUGGINGFACE: tuple[Row, ...] = (
    Row("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    *(Row(f"{LAYER}{norm}.weight", f"{HF}{name}.scale") for norm, name, _ in NORMS),
    Row(QKV, f"{HF}attn.q_proj.weight", "query"),
    Row(QKV, f"{HF}attn.k_proj.weight", "key"),
    Row(QKV, f"{HF}attn.v_proj.weight", "value"),
    Row(PROJ, f"{HF}attn.o_proj.weight"),
    Row(ROUTER, f"{HF}moe_block.gate.weight"),
    Row(FC1, f"{EXPERT}linear.weight", "expert_gate"),
    Row(FC1, f"{EXPERT}linear_v.weight", "expert_up"),
    Row(FC2, f"{EXPERT}linear_1.weight", "expert_down"),
    Row("decoder.final_layernorm.weight", "model.norm.scale"),
)
# Only of a model that is not tied, such as the guide's.
HUGGINGFACE_OUTPUT = Row("output_layer.weight", "lm_head.weight")
# In the order of the flattened tree, on which the numbers of the files depend.
XAI: tuple[Row, ...] = (
    Row("embedding.word_embeddings.weight", "language_model/in_out_embed/embeddings"),
    Row("decoder.final_layernorm.weight", "language_model/rms_norm/scale"),
    Row(FC1, f"{HAIKU}moe/linear/w", "expert_gate", transposed=True, stacked=True),
    Row(FC2, f"{HAIKU}moe/linear_1/w", "expert_down", transposed=True, stacked=True),
    Row(FC1, f"{HAIKU}moe/linear_v/w", "expert_up", transposed=True, stacked=True),
    Row(QKV, f"{HAIKU}multi_head_attention/key/w", "key", transposed=True),
    Row(PROJ, f"{HAIKU}multi_head_attention/linear/w", transposed=True),
    Row(QKV, f"{HAIKU}multi_head_attention/query/w", "query", transposed=True),
    Row(QKV, f"{HAIKU}multi_head_attention/value/w", "value", transposed=True),
    *(Row(f"{LAYER}{norm}.weight", f"{HAIKU}{leaf}/scale") for norm, _, leaf in NORMS),
    Row(ROUTER, f"{HAIKU}router/w", transposed=True),
)


def shapes(model: Grok1Config) -> dict[str, Shape]:
    """Grok-1's parameters."""
    return parameter_shapes(model, post_norms=model.post_norms)


def huggingface_rows(model: Grok1Config) -> Sequence[Row]:
    """hpcai-tech's names; an untied output is lm_head.weight."""
    rows = [row for row in HUGGINGFACE if model.post_norms or ".post_" not in row.parameter]
    return [*rows, HUGGINGFACE_OUTPUT] if model.untie_embeddings_and_output_weights else rows


def is_quantized(leaf: str) -> bool:
    """Whether the release stores a leaf as int8 with scales: the experts' and attention's."""
    return leaf.endswith("/w") and not leaf.endswith("/router/w")


def is_row_parallel(leaf: str) -> bool:
    """Whether the release divides a leaf's rows among devices, each with scales of its own."""
    return leaf.endswith(("/multi_head_attention/linear/w", "/moe/linear_1/w"))
