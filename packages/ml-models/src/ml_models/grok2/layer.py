"""Grok-2's layer: a dense MLP beside the experts.

ffn(x) = (mlp(x) + experts(x)) / sqrt(2), x normed once for both (SGLang's grok.py:615-626). The MLP
is divided over the tensor-parallel ranks as that of a dense model; the experts have their own
groups.
"""

from math import sqrt

from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules
from torch import Tensor

from ml_models.layers.block import ExpertTransformerLayer
from ml_models.layers.mlp import gated_mlp


class ResidualMlpLayer(ExpertTransformerLayer):
    """Parameters of ExpertTransformerLayer, and dense_mlp.linear_fc1 and .linear_fc2."""

    def __init__(
        self,
        config: TransformerConfig,
        submodules: TransformerLayerSubmodules,
        *args: object,
        activation: str,
        **kwargs: object,
    ) -> None:
        super().__init__(config, submodules, *args, post_norms=True, **kwargs)
        self.dense_mlp = gated_mlp(activation)(config)

    def feed_forward(self, normed: Tensor) -> Tensor:
        """The MLP and the experts of the same input, [S, B, H]."""
        dense: Tensor = self.dense_mlp(normed)[0]
        return (dense + super().feed_forward(normed)) / sqrt(2)
