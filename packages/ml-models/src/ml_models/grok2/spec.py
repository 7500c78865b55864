"""Grok-2 as megatron-core settings and module specs."""

from typing import TYPE_CHECKING

from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules

from ml_models.grok2.config import Grok2Config
from ml_models.grok2.layer import ResidualMlpLayer
from ml_models.layers.block import attention_spec, experts_spec, stage_spec
from ml_models.layers.norm import RMSNorm
from ml_models.layers.router import capped_router

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules


def transformer_fields(model: Grok2Config) -> dict[str, object]:
    """TransformerConfig fields beyond those that every architecture sets.

    megatron-core's ffn_hidden_size is the dense MLP's; the experts' is moe_ffn_hidden_size.
    """
    return {
        "moe_router_pre_softmax": not model.gates_sum_to_one,
        "ffn_hidden_size": model.dense_ffn_hidden_size,
    }


def layer_spec(
    model: Grok2Config, config: "TransformerConfig", vp_stage: int | None
) -> "TransformerBlockSubmodules":
    """The layers of this pipeline stage."""
    layer = ModuleSpec(
        module=ResidualMlpLayer,
        params={"activation": model.activation},
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention_spec(model.attention_scoring),
            pre_mlp_layernorm=RMSNorm,
            mlp=experts_spec(model.activation, capped_router(model.router_logit_cap)),
        ),
    )
    return stage_spec(config, layer, vp_stage)


def model_arguments(model: Grok2Config) -> dict[str, float | None]:
    """Arguments of ScaledGPTModel."""
    return {
        "embedding_multiplier": model.embedding_multiplier_scale,
        "output_multiplier": model.output_multiplier_scale,
        "final_logit_cap": model.final_logit_cap,
    }
