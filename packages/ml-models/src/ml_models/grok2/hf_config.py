"""The config.json of Grok-2's release, read and written.

Its `architectures` name Grok1ForCausalLM, so that Grok-1's own files are told apart by the fields
that Grok-2 alone has. It does not say the kind of GELU or whether the output is tied: what the file
cannot say is kept under a key of its own, see formats/own_settings.py.

rope_type "original" is plain RoPE. The context's extension is inside rope_theta: the formula of
SGLang's theta scaling with base 1e6, length 8192 and factor 16 gives 208533496.363, and the file's
rope_theta is 208533496. The keys from original_max_position_embeddings on have no effect.
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
from ml_models.grok2.config import Grok2Config

FIELDS = {
    "embedding_multiplier_scale": "embedding_multiplier_scale",
    "output_multiplier_scale": "output_multiplier_scale",
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "dense_ffn_hidden_size": "intermediate_size",
    "ffn_hidden_size": "moe_intermediate_size",
    "seq_length": "max_position_embeddings",
    "moe_router_topk": "num_experts_per_tok",
    "num_experts": "num_local_experts",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "num_layers": "num_hidden_layers",
    "norm_epsilon": "rms_norm_eps",
}
CAPS = {
    "final_logit_cap": "final_logit_softcapping",
    "attention_logit_cap": "attn_logit_softcapping",
    "router_logit_cap": "router_logit_softcapping",
}
"""null and 0 stand for no cap, as in SGLang."""
TEMPERATURE = "attn_temperature_len"
RESIDUAL = "residual_moe"
TELLING = ("router_logit_softcapping", TEMPERATURE, RESIDUAL, "moe_intermediate_size")
"""Fields of Grok-2 that Grok-1's files do not have."""
WITHOUT_EFFECT: Mapping[str, float] = {
    "original_max_position_embeddings": 8192,
    "scaling_factor": 16.0,
    "extrapolation_factor": 1.0,
    "attn_factor": 1.0,
    "beta_fast": 8,
    "beta_slow": 1,
}
"""The release's keys of its YaRN-like positions, which rope_type "original" does not read."""
PLAIN_ROPE = (None, "original", "default")


def recognises(values: Mapping[str, object]) -> bool:
    """Whether a config.json is Grok-2's; the release says Grok1ForCausalLM and model_type git."""
    named, model_type = named_architecture(values), values.get("model_type")
    if named.startswith("Grok2") or model_type in ("grok2", "grok-2"):
        return True
    if named == "Grok1ForCausalLM" and model_type == "git":
        return True
    if named.startswith("Grok1") or model_type == "git" or not (named or model_type):
        return any(key in values for key in TELLING)
    return False


def from_huggingface(values: Mapping[str, object], where: str) -> Grok2Config:
    """The release's config.json; refuses what Grok-2 does not compute here."""
    needed = (*FIELDS.values(), *CAPS.values(), TEMPERATURE, RESIDUAL)
    missing = [name for name in needed if name not in values]
    if not any("rope_theta" in entry for entry in (values, *_nested_rope(values).values())):
        missing.append("rope_theta")
    if missing:
        raise WeightError(f"{where}: {', '.join(missing)} missing; it is no Grok-2 config.json.")
    _refuse_other_models(values, where)
    fields = {
        **{field: values[key] for field, key in FIELDS.items()},
        **{field: values[key] or None for field, key in CAPS.items()},
        "attention_temperature_length": _temperature_length(values[TEMPERATURE], where),
        "kv_channels": head_size(values, where),
        "rotary_base": plain_rope_base(_original_as_default(values), where, 0.0),
        "untie_embeddings_and_output_weights": not ties_output(values, where, default=False),
    }
    return with_own_settings(Grok2Config.of(fields), values, fields, where)


def _refuse_other_models(values: Mapping[str, object], where: str) -> None:
    """WeightError for a setting that no code here computes."""
    kind, window = values.get("rope_type"), values.get("sliding_window_size")
    multiplier, act = values.get("attn_output_multiplier"), values.get("hidden_act") or "gelu"
    if kind not in PLAIN_ROPE:
        raise WeightError(
            f"{where}: rope_type is {kind!r}; it must be original, which is plain RoPE: the "
            "extension of the context is in rope_theta, and positions that are scaled besides are "
            "not computed here."
        )
    if values[RESIDUAL] is not True:
        raise WeightError(
            f"{where}: {RESIDUAL} is {values[RESIDUAL]!r}; it must be true, as every layer of "
            "Grok-2 has a dense MLP beside its experts."
        )
    if window is not None and window != -1:
        raise WeightError(
            f"{where}: sliding_window_size is {window!r}; it must be -1, as attention here sees "
            "everything."
        )
    if multiplier is not None:
        raise WeightError(
            f"{where}: attn_output_multiplier is {multiplier!r}; it must be left out: vLLM "
            "multiplies attention's output with it and llama.cpp the scores, and Grok-2's release "
            "has none."
        )
    if not str(act).startswith("gelu"):
        raise WeightError(f"{where}: hidden_act is {act!r}; Grok-2 has gelu.")


def _temperature_length(value: object, where: str) -> int | None:
    """None for -1 and 0, which switch the temperature off in SGLang, and for null."""
    if value is None:
        return None
    if type(value) is not int:
        raise WeightError(
            f"{where}: {TEMPERATURE} is {value!r}; it must be a whole number, -1 for none."
        )
    return value if value > 0 else None


def _nested_rope(values: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """The objects in which newer versions of transformers keep RoPE's settings."""
    entries = {name: values.get(name) for name in ("rope_parameters", "rope_scaling")}
    return {name: entry for name, entry in entries.items() if isinstance(entry, Mapping)}


def _original_as_default(values: Mapping[str, object]) -> dict[str, object]:
    """`values` in which the release's name of plain RoPE is transformers' name."""
    plain = {
        name: {"rope_theta": entry.get("rope_theta")}
        for name, entry in _nested_rope(values).items()
        if entry.get("rope_type") == "original"
    }
    return {**values, **plain}


def to_huggingface(config: Grok2Config, dtype: str) -> dict[str, object]:
    """config.json with the release's keys in its order, and whether the output is tied.

    The release leaves tie_word_embeddings out, which vLLM takes for tied.
    """
    named = {key: getattr(config, field) for field, key in (FIELDS | CAPS).items()}
    values: dict[str, object] = {
        "architectures": ["Grok1ForCausalLM"],
        **named,
        RESIDUAL: True,
        "head_dim": config.kv_channels,
        "rope_theta": _whole(config.rotary_base),
        TEMPERATURE: config.attention_temperature_length or -1,
        "sliding_window_size": -1,
        "global_attn_every_n": 1,
        "model_type": "git",
        "torch_dtype": dtype,
        "rope_type": "original",
        **WITHOUT_EFFECT,
        "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
    }
    if _unsaid(config, values):
        values[KEY] = config.to_dict()
    return values


def _whole(number: float) -> float | int:
    """A whole number without a fraction, as the release writes rope_theta."""
    return int(number) if number == int(number) else number


def _unsaid(config: Grok2Config, values: Mapping[str, object]) -> dict[str, object]:
    """Fields of the model that its config.json would be read without, with their values."""
    read = from_huggingface(values, "config.json").to_dict()
    return {name: value for name, value in config.to_dict().items() if read[name] != value}


def notes(config: Grok2Config) -> list[str]:
    """What the serving engines cannot be told by config.json."""
    unsaid = _unsaid(config, {**to_huggingface(config, "bfloat16"), KEY: None})
    if not unsaid:
        return []
    differences = ", ".join(f"{name} is {value}" for name, value in unsaid.items())
    return [
        f"WARNING: the release's config.json cannot say that {differences}; ml-models reads it "
        f"from the key {KEY}, and an engine computes its own choice."
    ]
