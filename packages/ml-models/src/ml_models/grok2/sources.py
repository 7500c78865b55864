"""Where each choice of Grok-2's named models comes from, for `ml-models show`.

xAI published no code. "config" is the release's config.json as several engines' tests quote it;
lines are those of SGLang 0.5.23's sglang/srt/models/grok.py.
"""

from collections.abc import Mapping
from types import MappingProxyType

_CONFIG = "release's config.json, as engines' tests quote it"

GROK2: Mapping[str, str] = MappingProxyType(
    {
        "num_layers": _CONFIG,
        "hidden_size": _CONFIG,
        "ffn_hidden_size": f"{_CONFIG} (moe_intermediate_size)",
        "num_attention_heads": _CONFIG,
        "num_query_groups": _CONFIG,
        "kv_channels": f"{_CONFIG} (head_dim); vLLM: hidden_size / heads",
        "num_experts": f"{_CONFIG} (num_local_experts)",
        "moe_router_topk": f"{_CONFIG} (num_experts_per_tok)",
        "vocab_size": _CONFIG,
        "seq_length": f"{_CONFIG} (max_position_embeddings)",
        "rotary_base": f"{_CONFIG}; the context's extension is inside; llama.cpp: YaRN besides",
        "norm_epsilon": f"{_CONFIG} (rms_norm_eps)",
        "init_method_std": "Megatron's default; xAI published no initial values",
        "untie_embeddings_and_output_weights": "lm_head.weight is a file; vLLM ties by default",
        "dense_ffn_hidden_size": f"{_CONFIG} (intermediate_size); SGLang grok.py:615-626",
        "gelu": "tanh: Grok-1's code, sglang-jax, llama.cpp; exact: SGLang on CUDA, vLLM",
        "attention_logit_cap": f"{_CONFIG}; SGLang extend_attention.py:649",
        "attention_temperature_length": "SGLang extend_attention.py:504-511; vLLM, llama.cpp: none",
        "router_logit_cap": f"{_CONFIG}; SGLang grok.py:148-155 (fixed); llama.cpp: none",
        "renormalize_topk": "SGLang moe/router.py:47-90, vLLM, sglang-jax; llama.cpp: true",
        "final_logit_cap": f"{_CONFIG}; SGLang grok.py:821-825",
        "embedding_multiplier_scale": f"{_CONFIG}; SGLang grok.py:680",
        "output_multiplier_scale": f"{_CONFIG}; SGLang grok.py:821-825",
    }
)

SHARED_BY_TINY = (
    *("gelu", "attention_logit_cap", "router_logit_cap", "renormalize_topk", "final_logit_cap"),
    *("rotary_base", "norm_epsilon", "output_multiplier_scale", "num_experts", "moe_router_topk"),
    *("untie_embeddings_and_output_weights", "init_method_std", "vocab_size"),
)


def source_of(model_name: str, field: str) -> str:
    """The source of a field of the model called `model_name`, in a line."""
    if model_name == "grok2-tiny" and field not in SHARED_BY_TINY:
        return "ours: small, every feature of the architecture"
    if model_name == "grok2-19b" and field in ("num_layers", "seq_length"):
        return "ours: fits a single node"
    return GROK2.get(field, "ours")
