"""Mixtral's configuration. Defaults are mistralai/Mixtral-8x7B-v0.1's config.json."""

from dataclasses import dataclass
from typing import ClassVar

from ml_models.architecture import Architecture
from ml_models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(ModelConfig):
    """Mixtral 8x7B: SwiGLU experts, gates renormalised over the chosen two, untied output."""

    architecture: ClassVar[str] = "mixtral"

    num_layers: int = 32
    hidden_size: int = 4096
    ffn_hidden_size: int = 14336
    num_attention_heads: int = 32
    num_query_groups: int = 8
    kv_channels: int = 128
    num_experts: int = 8
    moe_router_topk: int = 2
    vocab_size: int = 32000
    seq_length: int = 32768
    rotary_base: float = 1e6
    untie_embeddings_and_output_weights: bool = True

    @property
    def has_router(self) -> bool:
        """Always: the weights have a router also where there is a single expert."""
        return True

    @property
    def gates_sum_to_one(self) -> bool:
        """Always: Mixtral takes a softmax over the chosen experts' logits."""
        return True


def mixtral_8x7b() -> MixtralConfig:
    """The released model: 46.7 B parameters."""
    return MixtralConfig()


def mixtral_tiny() -> MixtralConfig:
    """Mixtral's structure at a size that trains on a CPU, with the shipped tokenizer's vocabulary.

    The shipped tokenizer is Grok-1's: 131072 entries.
    """
    return MixtralConfig(
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=128,
        num_attention_heads=8,
        num_query_groups=4,
        kv_channels=16,
        vocab_size=131072,
        seq_length=256,
    )


ARCHITECTURE = Architecture(
    name="mixtral",
    config_type=MixtralConfig,
    package="ml_models.mixtral",
    named={"mixtral-8x7b": mixtral_8x7b, "mixtral-tiny": mixtral_tiny},
)
