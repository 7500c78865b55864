"""Mixtral as megatron-core settings and module specs."""

from typing import Any

from ml_models.layers.block import block_spec
from ml_models.mixtral.config import MixtralConfig


def transformer_fields(model: MixtralConfig) -> dict[str, Any]:
    """TransformerConfig fields beyond those that every architecture sets."""
    return {"moe_router_pre_softmax": not model.gates_sum_to_one}


def layer_spec(model: MixtralConfig, config: Any, vp_stage: int | None) -> Any:
    """This pipeline stage's layers: SwiGLU, scores over sqrt(head size), no cap, no post norms."""
    return block_spec(
        config,
        activation="silu",
        attention_scale=model.kv_channels**-0.5,
        attention_logit_cap=None,
        post_norms=False,
        vp_stage=vp_stage,
    )


def model_arguments(model: MixtralConfig) -> dict[str, Any]:
    """Nothing beyond GPTModel's own."""
    return {}
