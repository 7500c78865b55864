"""Mixtral as megatron-core settings and module specs."""

from typing import TYPE_CHECKING

from ml_models.layers.block import block_spec
from ml_models.mixtral.config import MixtralConfig

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules


def transformer_fields(model: MixtralConfig) -> dict[str, object]:
    """TransformerConfig fields beyond those that every architecture sets."""
    return {"moe_router_pre_softmax": not model.gates_sum_to_one}


def layer_spec(
    model: MixtralConfig, config: "TransformerConfig", vp_stage: int | None
) -> "TransformerBlockSubmodules":
    """The layers of this pipeline stage: SwiGLU, no soft cap, no norms after the parts."""
    return block_spec(
        config,
        activation="silu",
        attention_scale=model.kv_channels**-0.5,
        attention_logit_cap=None,
        post_norms=False,
        vp_stage=vp_stage,
    )


def model_arguments(_: MixtralConfig) -> dict[str, float]:
    """Nothing beyond GPTModel's own."""
    return {}
