"""The sizes of a model that decide what a step costs, for our models and for published ones.

Published runs are of models that this repository does not have, with latent attention, windows,
shared experts or heads that predict further tokens. Their facts have the same form as ours.
"""

from dataclasses import dataclass
from typing import Literal

from ml_models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A weight [inner, columns] that every token of a layer passes."""

    inner: int
    columns: int
    split: Literal["columns", "rows", "none"]
    """The dimension that tensor parallelism divides. A matrix that is not divided is passed by the
    rank's own part of the sequence."""

    @property
    def entries(self) -> int:
        """Parameters of the whole matrix."""
        return self.inner * self.columns


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Sizes of a transformer, with or without experts."""

    hidden_size: int
    num_layers: int
    attention: tuple[Matrix, ...]
    """The projections of a layer, in the order of the forward pass."""
    num_attention_heads: int
    score_channels: int
    """Of a query and a key head."""
    value_channels: int
    rotated_channels: int
    """Of all query and key heads together."""
    key_value_channels: int
    """Elements of keys and values per token, which context parallelism exchanges."""
    window: int | None = None
    """Earlier tokens that a layer with a window sees."""
    windowed_layers: int = 0
    gated: bool = True
    """An MLP multiplies its activation with a third product."""
    dense_layers: int = 0
    """Layers with an MLP in place of experts; all of them in a dense model."""
    dense_width: int = 0
    """Inner width of the MLP of such a layer."""
    num_experts: int = 0
    topk: int = 0
    expert_width: int = 0
    beside_width: int = 0
    """Inner width of an MLP that every token passes beside its experts; 0 for none."""
    norms_per_layer: int = 2
    vocab_size: int
    """With the padding of the run."""
    tied: bool = False
    """The output projection is the embedding."""
    further_tokens: int = 0
    """Layers of multi-token prediction: each has a projection, a layer and a head."""

    @property
    def expert_layers(self) -> int:
        """Layers with experts."""
        return self.num_layers - self.dense_layers

    @property
    def attention_entries(self) -> int:
        """Parameters of a layer's projections."""
        return sum(matrix.entries for matrix in self.attention)

    def mlp_entries(self, width: float) -> float:
        """Parameters of an MLP of inner width `width`."""
        return (3 if self.gated else 2) * self.hidden_size * width

    def mean_context(self, seq_length: int) -> float:
        """Tokens that a token sees, itself included: the mean over tokens and layers."""
        full = (seq_length + 1) / 2
        if self.window is None or self.window >= seq_length:
            return full
        # The first `window` tokens see fewer.
        window = self.window - self.window * (self.window - 1) / 2 / seq_length
        share = self.windowed_layers / self.num_layers
        return share * window + (1 - share) * full


def facts_of(model: ModelConfig, padded_vocab_size: int) -> ModelFacts:
    """The facts of a model of ml_models."""
    queries = model.num_attention_heads * model.kv_channels
    keys = model.num_query_groups * model.kv_channels
    dense = not model.has_router
    return ModelFacts(
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        attention=(
            Matrix(inner=model.hidden_size, columns=queries + 2 * keys, split="columns"),
            Matrix(inner=queries, columns=model.hidden_size, split="rows"),
        ),
        num_attention_heads=model.num_attention_heads,
        score_channels=model.kv_channels,
        value_channels=model.kv_channels,
        rotated_channels=queries + keys,
        key_value_channels=2 * keys,
        dense_layers=model.num_layers if dense else 0,
        dense_width=model.ffn_hidden_size if dense else 0,
        num_experts=0 if dense else model.num_experts,
        topk=0 if dense else model.moe_router_topk,
        expert_width=0 if dense else model.ffn_hidden_size,
        beside_width=model.dense_mlp_width,
        norms_per_layer=4 if getattr(model, "post_norms", False) else 2,
        vocab_size=padded_vocab_size,
        tied=not model.untie_embeddings_and_output_weights,
    )
