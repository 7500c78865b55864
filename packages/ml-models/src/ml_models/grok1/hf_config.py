"""hpcai-tech's config.json of Grok-1, read and written.

The file has no model_type, activation, head size or RoPE base. What it cannot say is kept under a
key of its own, see formats/own_settings.py.
"""

from collections.abc import Mapping

from ml_models.errors import WeightError
from ml_models.formats.huggingface.config_fields import (
    head_size,
    named_architecture,
    plain_rope_base,
    ties_output,
)
from ml_models.formats.own_settings import KEY, with_own_settings
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


def recognises(values: Mapping[str, object]) -> bool:
    """Whether a config.json is hpcai-tech's kind; one that names no model is known by its keys."""
    named, model_type = named_architecture(values), values.get("model_type")
    if named or model_type:
        return named.startswith("Grok1") or model_type in ("grok-1", "grok1")
    return all(key in values for key in TELLING)


def from_huggingface(values: Mapping[str, object], where: str) -> Grok1Config:
    """hpcai-tech's config.json; `where` names it in errors."""
    missing = [name for name in FIELDS.values() if name not in values]
    if missing:
        raise WeightError(f"{where}: {', '.join(missing)} missing; it is no Grok-1 config.json.")
    fields = {field: values[key] for field, key in FIELDS.items()}
    config = Grok1Config.of(
        {
            **fields,
            "kv_channels": head_size(values, where),
            "rotary_base": plain_rope_base(values, where, Grok1Config.rotary_base),
            "untie_embeddings_and_output_weights": not ties_output(values, where, default=True),
        }
    )
    return with_own_settings(config, values, fields, where)


def to_huggingface(config: Grok1Config, dtype: str) -> dict[str, object]:
    """config.json with hpcai-tech's keys."""
    if config.kv_channels * config.num_attention_heads != config.hidden_size:
        raise WeightError(
            f"kv_channels is {config.kv_channels}; hpcai-tech's code takes hidden_size / "
            f"num_attention_heads, so it must be "
            f"{config.hidden_size / config.num_attention_heads:g}."
        )
    module = "modeling_grok1.Grok1Model"
    return {
        "architectures": ["Grok1ModelForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_grok1.Grok1Config",
            "AutoModel": module,
            "AutoModelForCausalLM": f"{module}ForCausalLM",
        },
        **{key: getattr(config, field) for field, key in FIELDS.items()},
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "torch_dtype": dtype,
        KEY: config.to_dict(),
    }


def notes(config: Grok1Config) -> list[str]:
    """What hpcai-tech's code computes differently from the folder: it has no such setting."""
    fixed = {
        "activation": "gelu_erf",
        "renormalize_topk": False,
        "post_norms": True,
        "rotary_base": 10000.0,
    }
    differences = [
        f"{name} is {getattr(config, name)} (there {value})"
        for name, value in fixed.items()
        if getattr(config, name) != value
    ]
    if config.attention_logit_cap is None:
        differences.append("attention_logit_cap is none (there max_attn_value must be a number)")
    if not differences:
        return []
    return [
        f"WARNING: hpcai-tech's code gives other numbers from this folder: "
        f"{', '.join(differences)}; ml-models reads the model's settings from the key {KEY} of "
        "config.json."
    ]
