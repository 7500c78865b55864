"""Model FLOPs from active parameters; docs/metrics.md has the formula and what it leaves out.

A multiply and an add are two. Causal attention counts the pairs that exist, (S + 1) / 2 per
token. The backward pass costs twice the forward pass. Work that is repeated (recomputation) or
added by the layout (padding of experts or vocabulary) is not the model's and does not count.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """FLOPs of the forward pass of one token, by part; layers added up."""

    projections: float
    """Query, key, value and output projections."""
    attention: float
    """Scores and their product with the values."""
    router: float
    experts: float
    """The topk experts that a token passes."""
    logits: float

    @property
    def total(self) -> float:
        """All parts."""
        return self.projections + self.attention + self.router + self.experts + self.logits


def forward_flops_per_token(model: "ModelConfig", seq_length: int) -> ForwardFlops:
    """docs/metrics.md, table of parts."""
    layers, hidden = model.num_layers, model.hidden_size
    queries = model.num_attention_heads * model.kv_channels
    keys_and_values = 2 * model.num_query_groups * model.kv_channels
    return ForwardFlops(
        projections=layers * 2.0 * hidden * (2 * queries + keys_and_values),
        attention=layers * 2.0 * queries * (seq_length + 1),
        router=layers * 2.0 * hidden * model.num_experts,
        experts=layers * model.moe_router_topk * 3 * 2.0 * hidden * model.ffn_hidden_size,
        logits=2.0 * hidden * model.vocab_size,
    )


def training_flops_per_token(model: "ModelConfig", seq_length: int) -> float:
    """Forward and backward."""
    return 3 * forward_flops_per_token(model, seq_length).total


def model_tflops_per_device(
    model: "ModelConfig", *, seq_length: int, tokens: int, seconds: float, devices: int
) -> float:
    """Model TFLOP/s of one device over a step of `tokens` tokens on all devices."""
    if seconds <= 0:
        return 0.0
    return training_flops_per_token(model, seq_length) * tokens / seconds / devices / 1e12


def active_parameters(model: "ModelConfig") -> int:
    """Parameters that one token passes: topk of the experts, the embedding counted once."""
    return _parameters(model, model.moe_router_topk)


def total_parameters(model: "ModelConfig") -> int:
    """All parameters, without padding of the vocabulary."""
    return _parameters(model, model.num_experts)


def _parameters(model: "ModelConfig", experts: int) -> int:
    hidden = model.hidden_size
    queries = model.num_attention_heads * model.kv_channels
    keys_and_values = 2 * model.num_query_groups * model.kv_channels
    norms = 4 if getattr(model, "post_norms", False) else 2
    layer = hidden * (2 * queries + keys_and_values + model.num_experts + norms)
    layer += experts * 3 * hidden * model.ffn_hidden_size
    matrices = 2 if model.untie_embeddings_and_output_weights else 1
    return model.num_layers * layer + matrices * model.vocab_size * hidden + hidden
