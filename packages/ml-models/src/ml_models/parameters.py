"""Counts of parameters from a configuration alone, per component; no torch.

Active are those that one token passes: all but the experts that it was not sent to. A tied output
projection is the embedding and is counted once. An embedding beside an untied output is a table of
which a token reads one row; whether it counts as active is as the model's published count has it:
Mistral's 12.9 B include it, Grok-2's 113.8 B do not (ModelConfig.embedding_is_active).
"""

from dataclasses import dataclass

from ml_models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Whole numbers of parameters; `experts` and the others are over all layers."""

    embedding: int
    active_embedding: int
    """The embedding, or 0 where the active parameters leave it out."""
    output: int
    attention: int
    router: int
    dense_mlp: int
    """The MLPs that every token passes beside its experts."""
    experts: int
    active_experts: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters."""
        unused = self.experts - self.active_experts + self.embedding - self.active_embedding
        return self.active + unused

    @property
    def active(self) -> int:
        """Parameters that one token passes."""
        return (
            self.active_embedding
            + self.output
            + self.attention
            + self.router
            + self.dense_mlp
            + self.active_experts
            + self.norms
        )


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Counts for the vocabulary without padding."""
    hidden, layers = model.hidden_size, model.num_layers
    heads = 2 * model.num_attention_heads + 2 * model.num_query_groups
    expert = 3 * hidden * model.ffn_hidden_size
    norms = 4 if getattr(model, "post_norms", False) else 2
    vocabulary = model.vocab_size * hidden
    untied = model.untie_embeddings_and_output_weights
    return ParameterCounts(
        embedding=vocabulary,
        active_embedding=0 if untied and not model.embedding_is_active else vocabulary,
        output=vocabulary if untied else 0,
        attention=layers * heads * model.kv_channels * hidden,
        router=layers * model.num_experts * hidden if model.has_router else 0,
        dense_mlp=layers * 3 * hidden * model.dense_mlp_width,
        experts=layers * model.num_experts * expert,
        active_experts=layers * model.moe_router_topk * expert,
        norms=(layers * norms + 1) * hidden,
    )


def billions(count: int) -> str:
    """A count for people, with a unit: 314.3 B, 46.7 M, 12.0 K."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
