"""From a model configuration to megatron-core: the transformer's settings, then the module.

Both are functions of their arguments alone, except that a module reads megatron-core's process
groups, which must be set up before `build_model`.
"""

from typing import TYPE_CHECKING, Any

from ml_models.config import ModelConfig
from ml_models.errors import ConfigError

if TYPE_CHECKING:
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer import TransformerConfig


def pad_vocab_size(vocab_size: int, divisible_by: int, tp: int) -> int:
    """`vocab_size` rounded up to a multiple of `divisible_by` * `tp`, as Megatron pads it."""
    for name, value in (("vocab_size", vocab_size), ("divisible_by", divisible_by), ("tp", tp)):
        if value < 1:
            raise ConfigError(f"pad_vocab_size: {name} is {value}; it must be 1 or more.")
    multiple = divisible_by * tp
    return -(-vocab_size // multiple) * multiple


def make_transformer_config(model: ModelConfig, **training: Any) -> "TransformerConfig":
    """Megatron-core's settings for `model`; `training` adds or overrides any of its fields."""
    raise NotImplementedError


def build_model(
    model: ModelConfig,
    config: "TransformerConfig",
    *,
    padded_vocab_size: int,
    pre_process: bool,
    post_process: bool,
    vp_stage: int | None = None,
    seed: int = 1234,
) -> "GPTModel":
    """This rank's part of `model`, its initial weights a function of (seed, parameter, index)."""
    raise NotImplementedError
