"""The arguments of a run that Megatron keeps in a checkpoint: they must describe the same model.

An argument that is absent has Megatron's default, as its flag came later than the run. Arguments
that would make another model must be off. Arguments that only change how the model was trained, or
numbers within rounding (fused kernels), are not compared.
"""

import math
from collections.abc import Mapping

from ml_models import registry
from ml_models.architecture import Settings
from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.files.inert import Call

# Settings that make another model and have no counterpart here; Megatron's and ModelLink's names.
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
# Setting -> the value that it must have where it has one.
FIXED: Mapping[str, object] = {
    "add_bias_linear": False,
    "normalization": "RMSNorm",
    "position_embedding_type": "rope",
    "rotary_percent": 1.0,
    "expert_interval": 1,
    "moe_layer_freq": 1,
    "moe_router_score_function": "softmax",
}
# Kinds of load balancing whose router takes the softmax after it has chosen the experts.
SELECT_THEN_SOFTMAX = ("aux_loss", "none", "seq_aux_loss")
SIZES = (
    *("num_layers", "hidden_size", "num_attention_heads", "kv_channels", "num_experts"),
    *("moe_router_topk", "vocab_size", "norm_epsilon", "untie_embeddings_and_output_weights"),
)
"""Fields of ModelConfig that are arguments of Megatron's by the same name."""
NEEDED = (
    *(name for name in SIZES if name not in ("num_experts", "moe_router_topk")),
    *("ffn_hidden_size", "group_query_attention", "num_query_groups", "max_position_embeddings"),
    *("init_method_std", "swiglu", "normalization", "position_embedding_type", "add_bias_linear"),
)
"""Arguments without which no model can be derived."""
NEEDED_WITH_EXPERTS = ("num_experts", "moe_router_topk", "moe_router_load_balancing_type")
"""Those that a mixture of experts needs besides."""


def settings_of(args: object, where: object) -> Settings:
    """The settings of an argparse.Namespace that was interpreted and never unpickled."""
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
    for name, required in FIXED.items():
        value = settings.get(name)
        per_layer = value if isinstance(value, list) and value else [value]
        if value is not None and any(entry != required for entry in per_layer):
            raise WeightError(
                f"{where}: {name} is {settings[name]!r} in its args; it must be {required!r}."
            )
    hooks = registry.architecture(model).megatron_args()
    features = hooks.features(model) if hooks is not None else {}
    sizes = _sizes(settings, where)
    if model.num_experts == 1:
        sizes.pop("moe_router_topk", None)  # no router chooses among one expert
    compared = [(name, value, getattr(model, name)) for name, value in sizes.items()]
    compared += [
        (name, value, features[name])
        for name, value in _computation(settings, model, where).items()
        if name in features
    ]
    for name, value, expected in compared:
        if not _equal(value, expected):
            raise WeightError(
                f"{where}: its args say {name} {value!r}, the model has {expected!r}; name the "
                "model that was trained with --model or --config."
            )


def _equal(value: object, expected: object) -> bool:
    if isinstance(value, float) and isinstance(expected, float):
        return math.isclose(value, expected, rel_tol=1e-6)
    return value == expected


def _sizes(settings: Settings, where: object) -> dict[str, object]:
    """Fields that every ModelConfig has, by the args; those that they leave open are left out."""
    groups = "num_query_groups"
    if settings.get("group_query_attention") is False:
        groups = "num_attention_heads"
    sizes = {
        **{name: settings.get(name) for name in SIZES},
        "ffn_hidden_size": settings.get("moe_ffn_hidden_size") or settings.get("ffn_hidden_size"),
        "num_query_groups": settings.get(groups),
        "rotary_base": number_of(settings, "rotary_base", 10000.0, where),
    }
    return {name: value for name, value in sizes.items() if value is not None}


def _computation(settings: Settings, model: ModelConfig, where: object) -> dict[str, object]:
    """What the args say about the computation, by the names that an architecture's features have.

    Megatron divides the scores by the square root of the head size and has no argument for it.
    """
    facts: dict[str, object] = {}
    if "swiglu" in settings:
        facts["activation"] = "silu" if settings["swiglu"] else "gelu"
    facts["post_norms"] = bool(settings.get("post_norm"))
    facts["attention_logit_cap"] = settings.get("attn_logit_softcapping") or None
    facts["attention_scale"] = model.kv_channels**-0.5
    if settings.get("moe_router_load_balancing_type") is not None:
        facts["renormalize_topk"] = renormalizes(settings)
    for name in ("embedding_multiplier_scale", "output_multiplier_scale"):
        facts[name] = number_of(settings, name, 1.0, where)
    return facts


def number_of(settings: Settings, name: str, default: float, where: object) -> float:
    """A setting as a float; absent, None and 0 stand for Megatron's default."""
    value = settings.get(name) or default
    if not isinstance(value, (int, float)):
        raise WeightError(f"{where}: {name} is {value!r} in its args; it must be a number.")
    return float(value)


def renormalizes(settings: Settings) -> object:
    """Whether the gates are a softmax over the chosen experts alone.

    A kind of routing that is not known here is returned by its name, which equals no model's.
    """
    routing = settings["moe_router_load_balancing_type"]
    if settings.get("moe_router_pre_softmax") or routing == "softmax_topk":
        return False
    return True if routing in SELECT_THEN_SOFTMAX else routing


def derive_model(settings: Settings, where: object) -> ModelConfig:
    """The model that the args describe, if they say everything that it takes.

    The last architecture that recognises them decides: an installed one comes after ours, so that
    it can claim args that ours would take too. `check_model` compares them with the result.
    """
    candidates = [
        hooks
        for entry in registry.architectures()
        if (hooks := entry.megatron_args()) is not None and hooks.describes(settings)
    ]
    needed = (*NEEDED, *(candidates[-1].NEEDED if candidates else ()))
    lacking = [name for name in needed if settings.get(name) is None]
    if lacking or not candidates:
        missing = f"do not say {', '.join(lacking)}" if lacking else "describe no known model"
        raise WeightError(f"{where}: its args {missing}; name the model with --model or --config.")
    sizes = {
        **_sizes(settings, where),
        "init_method_std": settings["init_method_std"],
        "seq_length": settings["max_position_embeddings"],
    }
    return candidates[-1].derive(settings, sizes)
