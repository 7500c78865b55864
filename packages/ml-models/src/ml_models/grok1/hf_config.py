"""hpcai-tech's config.json of Grok-1, to and from ours.

hpcai-tech's file has no model_type, activation, head size or RoPE base. What it cannot say (the
activation, no cap, renormalised gates) stands under the key "ml_models", which its code ignores.
"""

from collections.abc import Mapping
from typing import Any

from ml_models import registry
from ml_models.errors import WeightError
from ml_models.formats.huggingface.config_fields import (
    head_size,
    named_architecture,
    plain_rope_base,
    ties_output,
)
from ml_models.grok1.config import Grok1Config

FIELDS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "num_experts": "num_experts",
    "moe_router_topk": "num_experts_per_tok",
    "vocab_size": "vocab_size",
    "seq_length": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "attention_logit_cap": "max_attn_value",
    "attention_scale": "attn_output_multiplier",
    "embedding_multiplier_scale": "embedding_multiplier_scale",
    "output_multiplier_scale": "output_multiplier_scale",
}
TELLING = ("max_attn_value", "attn_output_multiplier", "output_multiplier_scale")


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is hpcai-tech's kind; one that names no model is known by its keys."""
    named, model_type = named_architecture(values), values.get("model_type")
    if named or model_type:
        return named.startswith("Grok1") or model_type in ("grok-1", "grok1")
    return all(key in values for key in TELLING)


def from_huggingface(values: Mapping[str, Any], where: str) -> Grok1Config:
    """hpcai-tech's config.json; `where` names it in errors."""
    missing = [name for name in FIELDS.values() if name not in values]
    if missing:
        raise WeightError(f"{where}: {', '.join(missing)} missing; it is no Grok-1 config.json.")
    given = {ours: values[theirs] for ours, theirs in FIELDS.items()}
    given["kv_channels"] = head_size(values, where)
    given["rotary_base"] = plain_rope_base(values, where, Grok1Config.rotary_base)
    given["untie_embeddings_and_output_weights"] = not ties_output(values, where, default=True)
    config = Grok1Config(**given)
    own = values.get("ml_models")
    if own is None:
        return config
    kept = registry.from_dict(own)
    if not isinstance(kept, Grok1Config) or any(
        getattr(kept, name) != getattr(config, name) for name in FIELDS if name in given
    ):
        raise WeightError(f"{where}: its own fields and those under ml_models contradict.")
    return kept


def to_huggingface(config: Grok1Config, dtype: str) -> dict[str, Any]:
    """config.json with hpcai-tech's keys."""
    if config.kv_channels * config.num_attention_heads != config.hidden_size:
        raise WeightError(
            f"kv_channels is {config.kv_channels}; hpcai-tech's code takes hidden_size / "
            f"num_attention_heads, so it must be "
            f"{config.hidden_size / config.num_attention_heads:g}."
        )
    module = "modeling_grok1.Grok1Model"
    values: dict[str, Any] = {
        "architectures": ["Grok1ModelForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_grok1.Grok1Config",
            "AutoModel": module,
            "AutoModelForCausalLM": f"{module}ForCausalLM",
        },
        **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "torch_dtype": dtype,
        "ml_models": config.to_dict(),
    }
    return values


def notes(config: Grok1Config) -> list[str]:
    """What hpcai-tech's code computes otherwise from the folder: it has no such setting."""
    its = {
        "activation": "gelu_erf",
        "renormalize_topk": False,
        "post_norms": True,
        "rotary_base": 10000.0,
    }
    apart = [
        f"{name} is {getattr(config, name)} (there {value})"
        for name, value in its.items()
        if getattr(config, name) != value
    ]
    if config.attention_logit_cap is None:
        apart.append("attention_logit_cap is none (there max_attn_value must be a number)")
    if not apart:
        return []
    return [
        f"WARNING: hpcai-tech's code gives other numbers from this folder: {', '.join(apart)}; "
        "ml-models reads the model's settings from the key ml_models of config.json."
    ]
