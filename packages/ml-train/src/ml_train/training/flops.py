"""Model FLOPs from active parameters; docs/metrics.md has the formula and what it leaves out.

A multiply and an add are two FLOPs. Causal attention counts the pairs that exist, (S + 1) / 2 per
token. The backward pass costs twice the forward pass. Work that is repeated (recomputation) or
added by the layout (padding of experts or vocabulary) is not the model's and does not count.
Parameters are counted in ml_models.parameters.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_models.parameters import count_parameters

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
    dense_mlp: float
    """The MLP beside the experts, 0 where a model has none."""
    experts: float
    """The topk experts that a token passes."""
    logits: float

    @property
    def total(self) -> float:
        """All parts."""
        layers = self.projections + self.attention + self.router + self.dense_mlp + self.experts
        return layers + self.logits


def forward_flops_per_token(model: "ModelConfig", seq_length: int) -> ForwardFlops:
    """By docs/metrics.md, table of parts: a matrix that a token passes costs 2 FLOPs an entry."""
    counts = count_parameters(model)
    queries = model.num_attention_heads * model.kv_channels
    return ForwardFlops(
        projections=2.0 * counts.attention,
        attention=model.num_layers * 2.0 * queries * (seq_length + 1),
        router=2.0 * counts.router,
        dense_mlp=2.0 * counts.dense_mlp,
        experts=2.0 * counts.active_experts,
        logits=2.0 * model.vocab_size * model.hidden_size,
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
