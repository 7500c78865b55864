"""Mixtral's config.json, read and written."""

from collections.abc import Mapping

from ml_models.errors import WeightError
from ml_models.formats.huggingface.config_fields import (
    head_size,
    named_architecture,
    plain_rope_base,
    ties_output,
)
from ml_models.mixtral.config import MixtralConfig

FIELDS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "num_experts": "num_local_experts",
    "moe_router_topk": "num_experts_per_tok",
    "vocab_size": "vocab_size",
    "seq_length": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
}


def recognises(values: Mapping[str, object]) -> bool:
    """Whether a config.json is Mixtral's."""
    model_type = values.get("model_type")
    return model_type == "mixtral" or (
        not model_type and named_architecture(values).startswith("Mixtral")
    )


def from_huggingface(values: Mapping[str, object], where: str) -> MixtralConfig:
    """transformers' config.json; refuses what Mixtral does not compute here."""
    missing = [name for name in FIELDS.values() if name not in values]
    if missing:
        raise WeightError(f"{where}: {', '.join(missing)} missing; it is no Mixtral config.json.")
    if values.get("hidden_act", "silu") != "silu":
        raise WeightError(f"{where}: hidden_act is {values['hidden_act']!r}; Mixtral has silu.")
    # A window that is never smaller than the sequence changes nothing.
    window, longest = values.get("sliding_window"), values["max_position_embeddings"]
    sees_all = isinstance(window, int) and isinstance(longest, int) and window >= longest
    if window is not None and not sees_all:
        raise WeightError(f"{where}: sliding_window is {window}; attention here sees everything.")
    fields = {field: values[key] for field, key in FIELDS.items()}
    if fields["num_query_groups"] is None:  # transformers' way to say: as many as query heads
        fields["num_query_groups"] = fields["num_attention_heads"]
    return MixtralConfig.of(
        {
            **fields,
            "kv_channels": head_size(values, where),
            "rotary_base": plain_rope_base(values, where, MixtralConfig.rotary_base),
            "init_method_std": values.get("initializer_range", 0.02),
            "untie_embeddings_and_output_weights": not ties_output(values, where, default=False),
        }
    )


def to_huggingface(config: MixtralConfig, dtype: str) -> dict[str, object]:
    """config.json that transformers reads."""
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        **{key: getattr(config, field) for field, key in FIELDS.items()},
        "head_dim": config.kv_channels,
        "hidden_act": "silu",
        "rope_theta": config.rotary_base,
        "initializer_range": config.init_method_std,
        "sliding_window": None,
        "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
        "torch_dtype": dtype,
    }
