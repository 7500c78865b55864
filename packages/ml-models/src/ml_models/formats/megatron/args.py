"""The args that Megatron keeps in a checkpoint: facts that must be those of the model.

A setting that is absent has Megatron's default: the flag came later than the run. What changes the
model and has no counterpart here must be off. Settings that only change how it was trained, or
numerics within rounding (fused kernels), are not looked at.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.files.pickles import Call
from ml_models.grok1.config import Grok1Config, grok1_40b_guide
from ml_models.mixtral.config import MixtralConfig

Settings = Mapping[str, Any]

# What would make it another model; Megatron's and ModelLink's names.
OTHER_MODELS = (
    *("add_qkv_bias", "add_dense_bias", "embed_layernorm", "qk_layernorm", "input_embeds_norm"),
    *("geglu", "gelu_tanh", "openai_gelu", "squared_relu", "quick_geglu", "add_rmsnorm_offset"),
    *("apply_layernorm_1p", "apply_residual_connection_post_layernorm", "no_post_layer_norm"),
    *("use_partial_rope", "use_glm_rope", "rotary_interleaved", "rope_scaling_type"),
    *("use_rope_scaling", "rotary_seq_len_interpolation_factor", "sliding_window"),
    *("square_alibi_mask", "query_pre_attn_scalar", "output_logit_softcapping"),
    *("scale_emb", "scale_depth", "dim_model_base", "multi_head_latent_attention"),
    *("multi_latent_attention", "n_shared_experts", "moe_shared_expert_intermediate_size"),
    *("first_k_dense_replace", "moe_router_enable_expert_bias", "moe_router_num_groups"),
    *("moe_router_topk_scaling_factor", "mtp_num_layers", "window_size", "lora_target_modules"),
)
# setting -> what it must be where it is said at all
FIXED: Mapping[str, Any] = {
    "add_bias_linear": False,
    "normalization": "RMSNorm",
    "position_embedding_type": "rope",
    "rotary_percent": 1.0,
    "expert_interval": 1,
    "moe_layer_freq": 1,
    "moe_router_score_function": "softmax",
}
SELECT_THEN_SOFTMAX = ("aux_loss", "none", "seq_aux_loss")


def mapping_of(value: Any) -> Mapping[Any, Any] | None:
    """A dict, or the inert form of an OrderedDict; None for anything else."""
    if isinstance(value, Call) and str(value.function) == "collections.OrderedDict":
        pairs = value.items
        good = all(isinstance(pair, tuple) and isinstance(pair[0], str) for pair in pairs)
        return dict(pairs) if good else None
    return value if isinstance(value, Mapping) else None


def settings_of(args: Any, where: object) -> Settings:
    """An inert Namespace's settings."""
    state = args.state if isinstance(args, Call) else args
    if not isinstance(state, Mapping):
        raise WeightError(f"{where}: its args are no Namespace.")
    return state


def check_model(settings: Settings, model: ModelConfig, where: object) -> None:
    """Raise WeightError for the first setting that contradicts `model`."""
    for name in OTHER_MODELS:
        if settings.get(name):
            raise WeightError(
                f"{where}: {name} is {settings[name]!r} in its args; no model here has it."
            )
    for name, value in FIXED.items():
        said = settings.get(name)
        if isinstance(said, list) and said:  # one per layer
            said = value if all(one == value for one in said) else said
        if said not in (None, value):
            raise WeightError(
                f"{where}: {name} is {settings[name]!r} in its args; it must be {value!r}."
            )
    for name, said, wanted in _facts(settings, model):
        same = said == wanted
        if isinstance(said, float) and isinstance(wanted, float):
            same = math.isclose(said, wanted, rel_tol=1e-6)
        if not same:
            raise WeightError(
                f"{where}: its args say {name} {said!r}, the model has {wanted!r}; name the model "
                "that was trained with --model or --config."
            )


def _facts(settings: Settings, model: ModelConfig) -> Iterator[tuple[str, Any, Any]]:
    """(name, what the args say, what the model has), for all that the args say."""
    ffn = settings.get("moe_ffn_hidden_size") or settings.get("ffn_hidden_size")
    groups = settings.get("num_query_groups")
    if settings.get("group_query_attention") is False:
        groups = settings.get("num_attention_heads")
    said: dict[str, Any] = {
        **{name: settings.get(name) for name in _SIZES},
        "ffn_hidden_size": ffn,
        "num_query_groups": groups,
        "rotary_base": float(settings.get("rotary_base") or 10000.0),
    }
    if model.num_experts == 1:
        del said["moe_router_topk"]
    for name, value in said.items():
        if value is not None:
            yield name, value, getattr(model, name)
    if not isinstance(model, (Grok1Config, MixtralConfig)):
        return
    activation = getattr(model, "activation", "silu")
    if "swiglu" in settings:
        yield "activation", "silu" if settings["swiglu"] else "gelu", activation
    yield "post_norms", bool(settings.get("post_norm")), getattr(model, "post_norms", False)
    yield (
        "attention_logit_cap",
        settings.get("attn_logit_softcapping") or None,
        getattr(model, "attention_logit_cap", None),
    )
    scale = model.kv_channels**-0.5
    yield "attention_scale", scale, getattr(model, "attention_scale", scale)
    if settings.get("moe_router_load_balancing_type") is not None:
        yield "renormalize_topk", _renormalises(settings), getattr(model, "renormalize_topk", True)
    for name in ("embedding_multiplier_scale", "output_multiplier_scale"):
        yield name, float(settings.get(name) or 1.0), float(getattr(model, name, 1.0))


def _renormalises(settings: Settings) -> Any:
    """Whether the gates are a softmax over the chosen experts; what is said, if that is unknown."""
    routing = settings["moe_router_load_balancing_type"]
    if settings.get("moe_router_pre_softmax") or routing == "softmax_topk":
        return False
    return True if routing in SELECT_THEN_SOFTMAX else routing


_SIZES = (
    *("num_layers", "hidden_size", "num_attention_heads", "kv_channels", "num_experts"),
    *("moe_router_topk", "vocab_size", "norm_epsilon", "untie_embeddings_and_output_weights"),
)
_NEEDED = (
    *_SIZES,
    *("ffn_hidden_size", "group_query_attention", "num_query_groups", "max_position_embeddings"),
    *("init_method_std", "swiglu", "normalization", "position_embedding_type", "add_bias_linear"),
    *("moe_router_load_balancing_type",),
)


def derive_model(settings: Settings, where: object) -> ModelConfig:
    """The model that the args describe: the guide's Grok-1 (--post-norm) or Mixtral.

    Only if they say everything; `check_model` then holds them against the result.
    """
    lacking = [name for name in _NEEDED if settings.get(name) is None]
    if lacking:
        raise WeightError(
            f"{where}: its args do not say {', '.join(lacking)}; name the model with --model or "
            "--config."
        )
    fields = {name: settings[name] for name in (*_SIZES, "init_method_std")}
    fields["ffn_hidden_size"] = settings.get("moe_ffn_hidden_size") or settings["ffn_hidden_size"]
    fields["num_query_groups"] = settings[
        "num_query_groups" if settings["group_query_attention"] else "num_attention_heads"
    ]
    fields["seq_length"] = settings["max_position_embeddings"]
    fields["rotary_base"] = float(settings.get("rotary_base") or 10000.0)
    if not settings.get("post_norm"):
        return MixtralConfig(**fields)
    guide = grok1_40b_guide()
    scales = {
        name: float(settings.get(name) or 1.0)
        for name in ("embedding_multiplier_scale", "output_multiplier_scale")
    }
    return guide.replace(
        **fields,
        **scales,
        attention_scale=fields["kv_channels"] ** -0.5,
        renormalize_topk=_renormalises(settings) is True,
    )
