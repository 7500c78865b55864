"""Grok-1's configuration. Defaults are xAI's release (github.com/xai-org/grok-1, run.py, model.py).

The fields beyond the sizes are the facts in which public versions of Grok-1 differ: hpcai-tech's
differs in `activation` alone (exact GELU), ModelLink's guide in five.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ml_models.architecture import Architecture
from ml_models.config import ModelConfig
from ml_models.scoring import Scoring


@dataclass(frozen=True, kw_only=True)
class Grok1Config(ModelConfig):
    """xAI's Grok-1."""

    architecture: ClassVar[str] = "grok1"

    positive: ClassVar[tuple[str, ...]] = (
        *ModelConfig.positive,
        "attention_logit_cap",
        "attention_scale",
        "embedding_multiplier_scale",
        "output_multiplier_scale",
    )

    num_layers: int = 64
    hidden_size: int = 6144
    ffn_hidden_size: int = 32768
    num_attention_heads: int = 48
    num_query_groups: int = 8
    kv_channels: int = 128
    num_experts: int = 8
    moe_router_topk: int = 2
    vocab_size: int = 131072
    seq_length: int = 8192

    activation: Literal["gelu_tanh", "gelu_erf", "silu"] = "gelu_tanh"
    """gelu_tanh: xAI (jax.nn.gelu's default); gelu_erf: hpcai-tech (nn.GELU()); silu: the guide."""

    attention_logit_cap: float | None = 30.0
    """Scores become cap * tanh(score / cap) before the mask; None: no cap (the guide)."""

    attention_scale: float = 0.08838834764831845
    """Multiplies q.k before the cap; xAI calls it attn_output_multiplier."""

    renormalize_topk: bool = False
    """True: the chosen experts' gates are made to sum to 1 (the guide)."""

    post_norms: bool = True
    """RMSNorm of the attention's and the experts' output before the residual addition."""

    embedding_multiplier_scale: float = 78.38367176906169
    """Multiplies the embedding: sqrt(6144)."""

    output_multiplier_scale: float = 0.5773502691896257
    """Multiplies the logits: 1/sqrt(3)."""

    @property
    def has_router(self) -> bool:
        """Always: the weights have a router also where there is a single expert."""
        return True

    @property
    def gates_sum_to_one(self) -> bool:
        """Whether the chosen experts' gates are renormalised."""
        return self.renormalize_topk

    @property
    def attention_scoring(self) -> Scoring:
        """What attention does with q.k: the scale, then the cap."""
        return Scoring(scale=self.attention_scale, cap=self.attention_logit_cap)


def ffn_hidden_size(widening_factor: float, hidden_size: int) -> int:
    """xAI's inner width: two thirds of widening_factor * hidden, up to a multiple of 8."""
    width = int(widening_factor * hidden_size) * 2 // 3
    return width + (8 - width) % 8


def grok1_314b() -> Grok1Config:
    """The released model: 314 B parameters."""
    return Grok1Config()


def grok1_40b() -> Grok1Config:
    """Eight layers of the released model, the depth that ModelLink's guide trains."""
    return Grok1Config(num_layers=8)


def grok1_40b_guide() -> Grok1Config:
    """The guide's own model: SiLU, no cap, renormalised top-2, untied embeddings, std 0.01."""
    return Grok1Config(
        num_layers=8,
        activation="silu",
        attention_logit_cap=None,
        renormalize_topk=True,
        untie_embeddings_and_output_weights=True,
        init_method_std=0.01,
    )


def grok1_tiny() -> Grok1Config:
    """Every feature of Grok-1, trained in about a minute on a CPU; the tokenizer's vocabulary.

    The multipliers follow the released rules for its own sizes: sqrt(hidden), 1/sqrt(head size).
    """
    return Grok1Config(
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=ffn_hidden_size(4, 64),
        num_attention_heads=8,
        num_query_groups=4,
        kv_channels=16,
        seq_length=256,
        attention_scale=0.25,
        embedding_multiplier_scale=8.0,
    )


ARCHITECTURE = Architecture(
    name="grok1",
    config_type=Grok1Config,
    package="ml_models.grok1",
    named={
        "grok1-314b": grok1_314b,
        "grok1-40b": grok1_40b,
        "grok1-40b-guide": grok1_40b_guide,
        "grok1-tiny": grok1_tiny,
    },
    # The public programs differ in the activation alone.
    variants={"xai": {"activation": "gelu_tanh"}, "hpcai": {"activation": "gelu_erf"}},
    release_format="xai",
)
