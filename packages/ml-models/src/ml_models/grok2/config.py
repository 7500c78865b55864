"""Grok-2's configuration. Defaults are the release's, as the engines that serve it read them.

xAI published weights and a config.json, no code. Four engines serve the release: SGLang, vLLM,
sglang-jax and llama.cpp. The fields beyond the sizes are the facts in which they differ, and the
caps and multipliers of config.json. docs/fidelity-grok2.md weighs the sources.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ml_models.architecture import Architecture
from ml_models.config import ModelConfig
from ml_models.scoring import Scoring


@dataclass(frozen=True, kw_only=True)
class Grok2Config(ModelConfig):
    """xAI's Grok-2: a dense MLP beside the experts, three soft caps, attention temperature."""

    architecture: ClassVar[str] = "grok2"

    positive: ClassVar[tuple[str, ...]] = (
        *ModelConfig.positive,
        "attention_logit_cap",
        "router_logit_cap",
        "final_logit_cap",
        "embedding_multiplier_scale",
        "output_multiplier_scale",
    )

    embedding_is_active: ClassVar[bool] = False

    num_layers: int = 64
    hidden_size: int = 8192
    ffn_hidden_size: int = 16384
    num_attention_heads: int = 64
    num_query_groups: int = 8
    kv_channels: int = 128
    num_experts: int = 8
    moe_router_topk: int = 2
    vocab_size: int = 131072
    seq_length: int = 131072
    rotary_base: float = 208533496.0
    untie_embeddings_and_output_weights: bool = True

    dense_ffn_hidden_size: int = 32768
    """Inner width of the MLP that every token passes beside its experts."""

    gelu: Literal["tanh", "exact"] = "tanh"
    """tanh: sglang-jax, llama.cpp, Grok-1's own code; exact (erf): SGLang on CUDA, vLLM."""

    attention_logit_cap: float | None = 30.0
    """Scores become cap * tanh(score / cap) before the mask; None: no cap."""

    attention_temperature_length: int | None = 1024
    """At a query position p above this length n, counted from 0, the capped scores are multiplied
    by log2(p) / log2(n); None: never (vLLM, llama.cpp)."""

    router_logit_cap: float | None = 30.0
    """Router logits become cap * tanh(logit / cap) before the softmax; None: no cap (llama.cpp)."""

    renormalize_topk: bool = False
    """True: the chosen experts' gates are made to sum to 1 (llama.cpp)."""

    final_logit_cap: float | None = 50.0
    """Logits become cap * tanh(logit / cap) after the output multiplier; None: no cap."""

    embedding_multiplier_scale: float = 90.50966799187809
    """Multiplies the embedding: sqrt(8192)."""

    output_multiplier_scale: float = 0.5
    """Multiplies the logits before their cap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.attention_temperature_length is None or self.attention_temperature_length >= 2,
            "attention_temperature_length",
            "2 or more, as the logarithm of 1 is 0, or null for none",
        )

    @property
    def dense_mlp_width(self) -> int:
        """`dense_ffn_hidden_size`."""
        return self.dense_ffn_hidden_size

    @property
    def activation(self) -> str:
        """`gelu` by the name that kernels/activation.py gives it."""
        return {"tanh": "gelu_tanh", "exact": "gelu_erf"}[self.gelu]

    @property
    def attention_scale(self) -> float:
        """Multiplies q.k before the cap; no engine takes it from the release's config.json."""
        return float(self.kv_channels**-0.5)

    @property
    def post_norms(self) -> bool:
        """Always: RMSNorm of a part's output before the residual addition."""
        return True

    @property
    def has_router(self) -> bool:
        """Always: the weights have a router also where there is a single expert."""
        return True

    @property
    def attention_scoring(self) -> Scoring:
        """What attention does with q.k: the scale, the cap, the temperature."""
        return Scoring(
            scale=self.attention_scale,
            cap=self.attention_logit_cap,
            temperature_length=self.attention_temperature_length,
        )

    @property
    def gates_sum_to_one(self) -> bool:
        """Whether the chosen experts' gates are renormalised."""
        return self.renormalize_topk


def grok2_270b() -> Grok2Config:
    """The released model: 269.5 B parameters."""
    return Grok2Config()


def grok2_19b() -> Grok2Config:
    """Four layers of the released model, for a single node of eight devices with 64 GB."""
    return Grok2Config(num_layers=4, seq_length=8192)


def grok2_tiny() -> Grok2Config:
    """Every feature of Grok-2, trained in about a minute on a CPU; the release's vocabulary size.

    The temperature starts at 64 of the 256 positions. The embedding multiplier is sqrt(hidden).
    """
    return Grok2Config(
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=64,
        dense_ffn_hidden_size=128,
        num_attention_heads=8,
        num_query_groups=4,
        kv_channels=16,
        seq_length=256,
        attention_temperature_length=64,
        embedding_multiplier_scale=8.0,
    )


ARCHITECTURE = Architecture(
    name="grok2",
    config_type=Grok2Config,
    package="ml_models.grok2",
    named={"grok2-270b": grok2_270b, "grok2-19b": grok2_19b, "grok2-tiny": grok2_tiny},
    # The references' own fp32 logits are up to 2.2e-4 from their fp64 ones: 10-19 % of the scores
    # lie above the cap, where tanh has few digits left.
    logits_tolerance=1e-3,
    # What a release's config.json does not say, by the value of the field.
    variants={"gelu-tanh": {"gelu": "tanh"}, "gelu-exact": {"gelu": "exact"}},
    release_format="presharded",
)
