"""Grok-2's weights by the release's names: Linear weights are [out, in], nothing is transposed.

The outputs of gate_proj and of an expert's w1 pass the activation, those of up_proj and w3 do not.
"""

from collections.abc import Sequence

from ml_models.grok2.config import Grok2Config
from ml_models.weights.boxes import Shape
from ml_models.weights.maps import Row
from ml_models.weights.parameters import parameter_shapes

LAYER = "decoder.layers.{layer}."
RELEASE = "model.layers.{layer}."
NORMS = (
    ("input_layernorm", "pre_attn_norm"),
    ("post_attention_layernorm", "post_attn_norm"),
    ("pre_mlp_layernorm", "pre_moe_norm"),
    ("post_mlp_layernorm", "post_moe_norm"),
)
QKV = f"{LAYER}self_attention.linear_qkv.weight"
DENSE_FC1 = f"{LAYER}dense_mlp.linear_fc1.weight"
FC1 = f"{LAYER}mlp.experts.linear_fc1.weight"
EXPERT = RELEASE + "block_sparse_moe.experts.{expert}."

HUGGINGFACE: tuple[Row, ...] = (
    Row("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    *(Row(f"{LAYER}{norm}.weight", f"{RELEASE}{name}.weight") for norm, name in NORMS),
    Row(QKV, f"{RELEASE}self_attn.q_proj.weight", "query"),
    Row(QKV, f"{RELEASE}self_attn.k_proj.weight", "key"),
    Row(QKV, f"{RELEASE}self_attn.v_proj.weight", "value"),
    Row(f"{LAYER}self_attention.linear_proj.weight", f"{RELEASE}self_attn.o_proj.weight"),
    Row(DENSE_FC1, f"{RELEASE}mlp.gate_proj.weight", "gate"),
    Row(DENSE_FC1, f"{RELEASE}mlp.up_proj.weight", "up"),
    Row(f"{LAYER}dense_mlp.linear_fc2.weight", f"{RELEASE}mlp.down_proj.weight"),
    Row(f"{LAYER}mlp.router.weight", f"{RELEASE}block_sparse_moe.gate.weight"),
    Row(FC1, f"{EXPERT}w1.weight", "expert_gate"),
    Row(FC1, f"{EXPERT}w3.weight", "expert_up"),
    Row(f"{LAYER}mlp.experts.linear_fc2.weight", f"{EXPERT}w2.weight", "expert_down"),
    Row("decoder.final_layernorm.weight", "model.norm.weight"),
)
# Left out of a tied model, whose output is the embedding.
HUGGINGFACE_OUTPUT = Row("output_layer.weight", "lm_head.weight")


def shapes(model: Grok2Config) -> dict[str, Shape]:
    """Grok-2's parameters."""
    return parameter_shapes(model, post_norms=True, dense_mlp_width=model.dense_mlp_width)


def huggingface_rows(model: Grok2Config) -> Sequence[Row]:
    """The release's names."""
    untied = model.untie_embeddings_and_output_weights
    return [*HUGGINGFACE, HUGGINGFACE_OUTPUT] if untied else HUGGINGFACE
