"""A transformer layer, with experts or an MLP, and the norms of Grok-1 or Mixtral.

Grok-1 norms before and after each part; Mixtral and dense models before.

h = h + post_attention_norm(attention(input_norm(h)))      xAI's model.py:1048-1097
h = h + post_mlp_norm(experts(pre_mlp_norm(h)))            without post norms: h + part(norm(h))
"""

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
)
from torch import Tensor

from ml_models.layers.attention import CappedSelfAttention, CoreAttention
from ml_models.layers.experts import GatedExperts
from ml_models.layers.mlp import gated_mlp
from ml_models.layers.norm import RMSNorm
from ml_models.layers.router import FusedRouter
from ml_models.megatron_core import differences
from ml_models.scoring import Scoring


class ExpertTransformerLayer(TransformerLayer):
    """Attention and experts with an RMSNorm before, and with `post_norms` one after."""

    def __init__(
        self,
        config: TransformerConfig,
        submodules: TransformerLayerSubmodules,
        *args: object,
        post_norms: bool,
        **kwargs: object,
    ) -> None:
        super().__init__(config, submodules, *args, **kwargs)
        # megatron-core's layer has no norms behind its parts. IdentityOp has no parameters, so a
        # checkpoint holds these norms only where the model has them.
        for name in ("post_attention_layernorm", "post_mlp_layernorm"):
            norm = (
                RMSNorm(config, config.hidden_size, config.layernorm_epsilon)
                if post_norms
                else IdentityOp()
            )
            setattr(self, name, norm)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        context: Tensor | None = None,
        rotary_pos_emb: Tensor | None = None,
        inference_context: object = None,
        packed_seq_params: object = None,
        **_: object,
    ) -> tuple[Tensor, Tensor | None]:
        """[S, B, H] -> [S, B, H]. `context` is returned unchanged, as megatron-core expects."""
        attended, _ = self.self_attention(
            self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            rotary_pos_emb=rotary_pos_emb,
            inference_context=inference_context,
            packed_seq_params=packed_seq_params,
        )
        hidden_states = hidden_states + self.post_attention_layernorm(attended)
        mixed = self.feed_forward(self.pre_mlp_layernorm(hidden_states))
        return hidden_states + self.post_mlp_layernorm(mixed), context

    def feed_forward(self, normed: Tensor) -> Tensor:
        """What follows attention, [S, B, H] -> the same: the experts, or the MLP."""
        output: Tensor = self.mlp(normed)[0]
        return output


def block_spec(
    config: TransformerConfig,
    *,
    activation: str,
    attention_scale: float,
    attention_logit_cap: float | None,
    post_norms: bool,
    vp_stage: int | None,
    dense: bool = False,
) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage and the final norm; `dense`: an MLP in place of experts."""
    return stage_spec(
        config,
        ModuleSpec(
            module=ExpertTransformerLayer,
            params={"post_norms": post_norms},
            submodules=TransformerLayerSubmodules(
                input_layernorm=RMSNorm,
                self_attention=attention_spec(Scoring(attention_scale, attention_logit_cap)),
                pre_mlp_layernorm=RMSNorm,
                mlp=gated_mlp(activation) if dense else experts_spec(activation),
            ),
        ),
        vp_stage,
    )


def attention_spec(scoring: Scoring) -> ModuleSpec:
    """Causal self-attention whose scores follow `scoring`."""
    return ModuleSpec(
        module=CappedSelfAttention,
        params={"attn_mask_type": AttnMaskType.causal, "scoring": scoring},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=CoreAttention,
            linear_proj=RowParallelLinear,
        ),
    )


def experts_spec(activation: str, router: type[FusedRouter] = FusedRouter) -> ModuleSpec:
    """megatron-core's mixture of experts with this package's router and experts."""
    experts = ModuleSpec(module=GatedExperts, params={"activation": activation})
    return differences.moe_layer_spec(experts, router)


def stage_spec(
    config: TransformerConfig, layer: ModuleSpec, vp_stage: int | None
) -> TransformerBlockSubmodules:
    """As many of `layer` as this pipeline stage has, and the final norm."""
    return TransformerBlockSubmodules(
        layer_specs=[layer] * differences.num_layers_here(config, vp_stage), layer_norm=RMSNorm
    )
