"""What the args of a checkpoint say: the layout, and facts that must be those of the model.

A setting that is absent has Megatron's default: the flag came later than the run. What changes the
model and has no counterpart here must be off. Settings that only change how it was trained, or
numerics within rounding (fused kernels), are not looked at.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.grok1.config import Grok1Config, grok1_40b_guide
from ml_models.mixtral.config import MixtralConfig

Settings = Mapping[str, Any]

# Layouts in which a layer or an expert is not where the plain rule puts it.
ODD_LAYOUTS = (
    *("num_layer_list", "noop_layers", "automated_pipeline", "pipeline_model_parallel_layout"),
    *("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"),
    *("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"),
    *("standalone_embedding_stage", "encoder_pipeline_model_parallel_size"),
    *("encoder_tensor_model_parallel_size", "moe_tp_extend_ep", "moe_extended_tp"),
    *("use_pipe_experts", "schedules_method"),
)
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


@dataclass(frozen=True)
class Layout:
    """Sizes of the groups that the model was divided over; vp: virtual stages per stage."""

    tp: int
    pp: int
    ep: int
    vp: int

    def __str__(self) -> str:
        virtual = f", {self.vp} virtual stages per stage" if self.vp > 1 else ""
        return f"TP {self.tp}, PP {self.pp}, EP {self.ep}{virtual}"


def layout_of(settings: Settings, where: object) -> Layout:
    """The layout; WeightError for one in which layers or experts are dealt out otherwise."""
    sizes = []
    for name in (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "expert_model_parallel_size",
        "virtual_pipeline_model_parallel_size",
    ):
        size = settings.get(name)
        size = 1 if size is None and name.startswith(("expert", "virtual")) else size
        if type(size) is not int or size < 1:
            raise WeightError(f"{where}: {name} is {size!r} in its args, no size of a layout.")
        sizes.append(size)
    layout = Layout(*sizes)
    for name in ODD_LAYOUTS:
        if settings.get(name):
            raise WeightError(
                f"{where}: {name} is {settings[name]!r} in its args; only layouts that divide "
                "layers and experts evenly are read."
            )
    expert_tp = settings.get("expert_tensor_parallel_size")
    if expert_tp not in (None, layout.tp):
        raise WeightError(
            f"{where}: expert_tensor_parallel_size is {expert_tp} in its args; it must be TP, "
            f"which is {layout.tp}."
        )
    return layout


def check_model(settings: Settings, model: ModelConfig, where: object) -> None:
    """Raise WeightError for the first setting that contradicts `model`."""
    for name in OTHER_MODELS:
        if settings.get(name):
            raise WeightError(
                f"{where}: {name} is {settings[name]!r} in its args; no model here has it."
            )
    for name, value in FIXED.items():
        if settings.get(name) not in (None, value):
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
