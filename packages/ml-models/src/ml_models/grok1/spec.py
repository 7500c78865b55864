"""Grok-1 as megatron-core settings and module specs."""

from typing import TYPE_CHECKING

from ml_models.grok1.config import Grok1Config
from ml_models.layers.block import block_spec

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules


def transformer_fields(model: Grok1Config) -> dict[str, object]:
    """TransformerConfig fields beyond those that every architecture sets."""
    return {"moe_router_pre_softmax": not model.gates_sum_to_one}


def layer_spec(
    model: Grok1Config, config: "TransformerConfig", vp_stage: int | None
) -> "TransformerBlockSubmodules":
    """The layers of this pipeline stage."""
    return block_spec(
        config,
        activation=model.activation,
        attention_scale=model.attention_scale,
        attention_logit_cap=model.attention_logit_cap,
        post_norms=model.post_norms,
        vp_stage=vp_stage,
    )


def model_arguments(model: Grok1Config) -> dict[str, float]:
    """Arguments of ScaledGPTModel."""
    return {
        "embedding_multiplier": model.embedding_multiplier_scale,
        "output_multiplier": model.output_multiplier_scale,
    }
