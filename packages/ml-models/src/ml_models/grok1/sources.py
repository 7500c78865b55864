"""Where each choice of Grok-1's named models comes from, for `ml-models show`."""

from collections.abc import Mapping
from types import MappingProxyType

_SIZES = "xai-org/grok-1 run.py:24-51"

GROK1: Mapping[str, str] = MappingProxyType(
    {
        "num_layers": _SIZES,
        "hidden_size": f"{_SIZES} (emb_size)",
        "ffn_hidden_size": "xai-org/grok-1 model.py:85-89 (widening factor 8, two thirds)",
        "num_attention_heads": f"{_SIZES} (num_q_heads)",
        "num_query_groups": f"{_SIZES} (num_kv_heads)",
        "kv_channels": f"{_SIZES} (key_size); apart from hidden size, model.py:422-423",
        "num_experts": f"{_SIZES}; model.py:334 hard-codes 8",
        "moe_router_topk": f"{_SIZES} (num_selected_experts)",
        "vocab_size": _SIZES,
        "seq_length": f"{_SIZES} (sequence_len)",
        "rotary_base": "xai-org/grok-1 model.py:648, 801; rotate-half, model.py:627-632",
        "norm_epsilon": "xai-org/grok-1 model.py:592",
        "init_method_std": "Megatron's default; xAI published no initial values",
        "untie_embeddings_and_output_weights": "xai-org/grok-1 model.py:1139-1143 (tied)",
        "activation": "xai-org/grok-1 model.py:374 (jax.nn.gelu: tanh); hpcai-tech: exact GELU",
        "attention_logit_cap": "xai-org/grok-1 model.py:864, before the mask (875)",
        "attention_scale": "xai-org/grok-1 run.py (attn_output_multiplier), model.py:860-863",
        "renormalize_topk": "xai-org/grok-1 model.py:243, 298 (softmax over all, then top-2)",
        "post_norms": "xai-org/grok-1 model.py:1059, 1095",
        "embedding_multiplier_scale": "xai-org/grok-1 run.py, model.py:1237",
        "output_multiplier_scale": "xai-org/grok-1 run.py, model.py:1269",
    }
)

GUIDE: Mapping[str, str] = MappingProxyType(
    {
        "num_layers": "the guide's script, --num-layers 8",
        "init_method_std": "the guide's script, --init-method-std 0.01",
        "activation": "the guide's script, --swiglu (xAI: GELU)",
        "attention_logit_cap": "the guide has none (xAI: 30)",
        "renormalize_topk": "Megatron's default router, which the guide uses (xAI: no)",
        "untie_embeddings_and_output_weights": "the guide's script (xAI: tied)",
    }
)


SHARED_BY_TINY = (
    *("activation", "attention_logit_cap", "renormalize_topk", "post_norms", "rotary_base"),
    *("norm_epsilon", "output_multiplier_scale", "num_experts", "moe_router_topk"),
    *("untie_embeddings_and_output_weights", "init_method_std", "vocab_size"),
)


def source_of(model_name: str, field: str) -> str:
    """The source of a field of the model called `model_name`, in a line."""
    if model_name == "grok1-tiny" and field not in SHARED_BY_TINY:
        return "ours: small, every feature of the architecture"
    if model_name == "grok1-40b-guide" and field in GUIDE:
        return GUIDE[field]
    if model_name == "grok1-40b" and field == "num_layers":
        return "the guide's depth (--num-layers 8)"
    return GROK1.get(field, "ours")
