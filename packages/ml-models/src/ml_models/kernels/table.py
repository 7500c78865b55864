"""The operations of the layers with their forms, what a user may ask of them, and the choices.

This module does not import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ml_models.config import ModelConfig
from ml_models.kernels.adam import ADAM
from ml_models.kernels.attention.forms import ATTENTION
from ml_models.kernels.forms import (
    EXPERTS,
    GATED_ACTIVATION,
    NORM,
    PERMUTATION,
    ROTARY,
    WEIGHT_GRADIENT,
)
from ml_models.kernels.selection import (
    AUTO,
    Choice,
    Operation,
    Situation,
    choose,
)

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        operation.name: operation
        for operation in (
            ATTENTION,
            EXPERTS,
            WEIGHT_GRADIENT,
            NORM,
            GATED_ACTIVATION,
            ROTARY,
            PERMUTATION,
            ADAM,
        )
    }
)


@dataclass(frozen=True, kw_only=True)
class KernelSettings:
    """What the user asks for, per operation: auto, or a key of the operation's requests."""

    attention: str = AUTO
    experts: str = AUTO
    weight_gradient: str = AUTO
    norm: str = AUTO
    gated_activation: str = AUTO
    rotary: str = AUTO
    permutation: str = AUTO
    adam: str = AUTO


def situation_of(
    model: ModelConfig, *, device: str, dtype: str, expert_tensor_parallel: int = 1
) -> Situation:
    """What `model` means for the choices; `device` is a type of torch's, such as cuda.

    expert_tensor_parallel: ranks that an expert is divided over.
    """
    return Situation(
        device=device,
        dtype=dtype,
        scoring=model.attention_scoring,
        head_size=model.kv_channels,
        activation=model.activation,
        widths=(model.hidden_size, model.ffn_hidden_size // expert_tensor_parallel),
    )


def choices(settings: KernelSettings, situation: Situation) -> tuple[Choice, ...]:
    """The form of every operation. ConfigError where a request cannot be met."""
    return tuple(
        choose(operation, situation, getattr(settings, operation.name))
        for operation in OPERATIONS.values()
    )
