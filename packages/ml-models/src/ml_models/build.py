"""From a model configuration to megatron-core: the transformer's settings, then the module.

`make_transformer_config` gives the settings, `build_model` the module. The settings are a function
of the arguments alone. The module also reads megatron-core's process groups, which must be set up
before.

torch and megatron-core are imported inside the functions: this module is imported at the top of
scripts (README.md), before a platform has adapted what megatron-core imports.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import ConfigError, LayoutError
from ml_models.megatron_core import differences
from ml_models.nearest import did_you_mean

if TYPE_CHECKING:
    import torch
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer import TransformerConfig

    from ml_models.kernels.execution import Execution
    from ml_models.kernels.table import KernelSettings

RECOMPUTABLE = ("core_attn", "moe", "moe_act")
BALANCING = ("aux_loss", "none")


def pad_vocab_size(vocab_size: int, divisible_by: int, tp: int) -> int:
    """`vocab_size` rounded up to a multiple of `divisible_by` * `tp`, as Megatron pads it."""
    for name, value in (("vocab_size", vocab_size), ("divisible_by", divisible_by), ("tp", tp)):
        if value < 1:
            raise ConfigError(f"pad_vocab_size: {name} is {value}; it must be 1 or more.")
    multiple = divisible_by * tp
    return -(-vocab_size // multiple) * multiple


def make_transformer_config(
    model: ModelConfig, *, device: "torch.device | str" = "cpu", **training: Any
) -> "TransformerConfig":
    """Megatron-core's settings for `model`; `training` adds or overrides any of its fields.

    `device`: where parameters are made, the device of the platform that the entry point chose.
    Raises ConfigError for a field that core does not have, LayoutError for a division that does
    not fit the model's sizes.
    """
    # See the top of the file.
    import torch
    from megatron.core.transformer import TransformerConfig

    from ml_models.layers.device import PlacedTransformerConfig

    device = torch.device(device)
    known = [field.name for field in fields(TransformerConfig)]
    for name in training:
        if name not in known:
            raise ConfigError(
                f"megatron-core's TransformerConfig has no field {name!r}."
                f"{did_you_mean(name, known)}"
            )
    values: dict[str, Any] = {
        **_shape_fields(model),
        "activation_func": torch.nn.functional.silu,
        "use_cpu_initialization": device.type == "cpu",
        **registry.architecture(model).spec().transformer_fields(model),
        **training,
    }
    if values["num_moe_experts"] is None:
        # megatron-core refuses settings of experts in a model that has none.
        values |= {"moe_ffn_hidden_size": None, "moe_router_pre_softmax": True}
    _check_supported(values)
    check_layout(
        model,
        tp=values.get("tensor_model_parallel_size", 1),
        pp=values.get("pipeline_model_parallel_size", 1),
        ep=values.get("expert_model_parallel_size", 1),
        etp=values.get("expert_tensor_parallel_size"),
    )
    return PlacedTransformerConfig(**values, parameter_device=device)


def _shape_fields(model: ModelConfig) -> dict[str, object]:
    """What every architecture sets: its sizes, no biases, no dropout, no fused CUDA kernels."""
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "moe_ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.num_query_groups,
        "kv_channels": model.kv_channels,
        "num_moe_experts": model.num_experts,
        "moe_router_topk": model.moe_router_topk,
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
        "normalization": "RMSNorm",
        "layernorm_epsilon": model.norm_epsilon,
        "init_method_std": model.init_method_std,
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "bias_dropout_fusion": False,
        "bias_activation_fusion": False,
        "masked_softmax_fusion": False,
        "apply_rope_fusion": False,
        "gradient_accumulation_fusion": False,
    }


def _check_supported(values: dict[str, Any]) -> None:
    """Refuse settings of megatron-core that the layers of this package would ignore."""
    for name in ("attention_dropout", "hidden_dropout"):
        if values[name]:
            raise ConfigError(
                f"{name} is {values[name]}; these architectures have no dropout, so it must be 0."
            )
    if values["moe_router_load_balancing_type"] not in BALANCING:
        raise ConfigError(
            f"moe_router_load_balancing_type is {values['moe_router_load_balancing_type']!r}; "
            f"supported: {', '.join(BALANCING)}."
        )
    if values.get("recompute_granularity") == "selective":
        for name in values.get("recompute_modules") or ():
            if name not in RECOMPUTABLE:
                raise ConfigError(
                    f"recompute_modules names {name!r}; supported: {', '.join(RECOMPUTABLE)} "
                    "(core_attn and moe_act are always recomputed, whether named or not)."
                )
    if values.get("context_parallel_size", 1) != 1:
        raise LayoutError(
            f"context_parallel_size is {values['context_parallel_size']}; attention with a soft "
            "cap runs on whole sequences here, so it must be 1."
        )


def check_layout(model: ModelConfig, *, tp: int, pp: int, ep: int, etp: int | None) -> None:
    """Raise LayoutError unless `model` divides evenly; `etp` None means equal to `tp`."""
    etp = tp if etp is None else etp
    rules = (
        ("tensor_model_parallel_size", tp, "num_query_groups", model.num_query_groups),
        ("tensor_model_parallel_size", tp, "num_attention_heads", model.num_attention_heads),
        ("expert_model_parallel_size", ep, "num_experts", model.num_experts),
        ("expert_tensor_parallel_size", etp, "ffn_hidden_size", model.ffn_hidden_size),
        # 0, of a model without such an MLP, is divided by every size.
        ("tensor_model_parallel_size", tp, "dense_ffn_hidden_size", model.dense_mlp_width),
    )
    for name, size, divided, total in rules:
        if size < 1 or total % size:
            raise LayoutError(
                f"{name} is {size}; it must divide the model's {divided}, which is {total}: "
                f"choose one of {_divisors(total)}."
            )
    if not 1 <= pp <= model.num_layers:
        raise LayoutError(
            f"pipeline_model_parallel_size is {pp}; it must lie between 1 and the model's "
            f"num_layers, which is {model.num_layers}."
        )


def _divisors(total: int) -> str:
    return ", ".join(str(i) for i in range(1, min(total, 64) + 1) if total % i == 0)


def build_model(
    model: ModelConfig,
    config: "TransformerConfig",
    *,
    padded_vocab_size: int,
    pre_process: bool,
    post_process: bool,
    vp_stage: int | None = None,
    seed: int = 1234,
    execution: "Execution" = "eager",
    kernels: "KernelSettings | None" = None,
) -> "GPTModel":
    """This rank's part of `model`, its initial weights a function of (seed, parameter, index).

    `execution`: eager, or compiled with torch.compile, see kernels/execution.py.
    `kernels`: the form of each operation, see kernels/table.py; None for the device's defaults.
    With `config.perform_initialization` False the weights are left as they were allocated.
    """
    # See the top of the file.
    from ml_models.layers.forms import equip
    from ml_models.layers.initialize import initialize_weights
    from ml_models.layers.model import ScaledGPTModel
    from ml_models.layers.tensor_parallel import mark_tensor_parallel

    tp = config.tensor_model_parallel_size
    if padded_vocab_size < model.vocab_size or padded_vocab_size % tp:
        raise ConfigError(
            f"padded_vocab_size is {padded_vocab_size}; it must be a multiple of the tensor "
            f"parallel size {tp} and at least the model's vocab_size, {model.vocab_size}: use "
            "pad_vocab_size."
        )
    spec = registry.architecture(model).spec()
    # megatron-core's own initial values depend on the layout: they are switched off meanwhile.
    initialize, config.perform_initialization = config.perform_initialization, False
    try:
        with differences.gpt_model_without_notice():
            built = ScaledGPTModel(
                config=config,
                transformer_layer_spec=spec.layer_spec(model, config, vp_stage),
                vocab_size=padded_vocab_size,
                unpadded_vocab_size=model.vocab_size,
                max_sequence_length=model.seq_length,
                pre_process=pre_process,
                post_process=post_process,
                share_embeddings_and_output_weights=not model.untie_embeddings_and_output_weights,
                position_embedding_type="rope",
                rotary_base=model.rotary_base,
                **spec.model_arguments(model),
                **differences.stage_arguments(vp_stage),
            )
    finally:
        config.perform_initialization = initialize
    mark_tensor_parallel(built)
    equip(built, model, config, kernels=kernels, execution=execution)
    if initialize:
        initialize_weights(built, config, seed=seed, vocab_size=model.vocab_size)
    return built
