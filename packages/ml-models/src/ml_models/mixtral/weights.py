"""Mixtral's weights by Hugging Face's names.

The output of w1 passes the activation, that of w3 does not; w2 projects their product down.
"""

from collections.abc import Sequence

from ml_models.mixtral.config import MixtralConfig
from ml_models.weights.boxes import Shape
from ml_models.weights.maps import Row
from ml_models.weights.parameters import parameter_shapes

LAYER = "decoder.layers.{layer}."
HF = "model.layers.{layer}."
QKV = f"{LAYER}self_attention.linear_qkv.weight"
FC1 = f"{LAYER}mlp.experts.linear_fc1.weight"
FC2 = f"{LAYER}mlp.experts.linear_fc2.weight"
EXPERT = HF + "block_sparse_moe.experts.{expert}."

HUGGINGFACE: tuple[Row, ...] = (
    Row("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    Row(f"{LAYER}input_layernorm.weight", f"{HF}input_layernorm.weight"),
    Row(QKV, f"{HF}self_attn.q_proj.weight", "query"),
    Row(QKV, f"{HF}self_attn.k_proj.weight", "key"),
    Row(QKV, f"{HF}self_attn.v_proj.weight", "value"),
    Row(f"{LAYER}self_attention.linear_proj.weight", f"{HF}self_attn.o_proj.weight"),
    Row(f"{LAYER}pre_mlp_layernorm.weight", f"{HF}post_attention_layernorm.weight"),
    Row(f"{LAYER}mlp.router.weight", f"{HF}block_sparse_moe.gate.weight"),
    Row(FC1, f"{EXPERT}w1.weight", "expert_gate"),
    Row(FC1, f"{EXPERT}w3.weight", "expert_up"),
    Row(FC2, f"{EXPERT}w2.weight", "expert_down"),
    Row("decoder.final_layernorm.weight", "model.norm.weight"),
)
# Left out of a tied model, whose output is the embedding.
HUGGINGFACE_OUTPUT = Row("output_layer.weight", "lm_head.weight")


def shapes(model: MixtralConfig) -> dict[str, Shape]:
    """Mixtral's parameters."""
    return parameter_shapes(model, post_norms=False)


def huggingface_rows(model: MixtralConfig) -> Sequence[Row]:
    """transformers' names of a saved Mixtral."""
    untied = model.untie_embeddings_and_output_weights
    return [*HUGGINGFACE, HUGGINGFACE_OUTPUT] if untied else HUGGINGFACE
