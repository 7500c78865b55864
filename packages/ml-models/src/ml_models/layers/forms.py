"""Which form of each operation the modules of a model use: chosen once, when the model is built."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from megatron.core.transformer import TransformerConfig

from ml_models.config import ModelConfig
from ml_models.kernels.execution import Execution, set_execution
from ml_models.kernels.selection import Situation, choose
from ml_models.kernels.table import OPERATIONS, KernelSettings, situation_of
from ml_models.layers.device import device_of
from ml_models.layers.linear import declare_forms

OWN = ("scoring", "activation", "widths")
"""Fields of a Situation that a module may have as attributes."""


def equip(
    built: torch.nn.Module,
    model: ModelConfig,
    config: TransformerConfig,
    *,
    kernels: KernelSettings | None,
    execution: Execution,
) -> None:
    """Give the modules of a built model their forms, eager or compiled. ConfigError."""
    situation = situation_of(
        model,
        device=device_of(config).type,
        dtype=str(config.params_dtype).removeprefix("torch."),
    )
    declare_forms(built)
    set_forms(built, kernels or KernelSettings(), situation)
    set_execution(built, execution)


def set_forms(model: torch.nn.Module, settings: KernelSettings, situation: Situation) -> None:
    """Choose the form of every operation that a module names in its `kernel_forms`.

    What a module knows of itself (OWN) wins over `situation`. ConfigError where a request of
    `settings` cannot be met.
    """
    for module in model.modules():
        used: Mapping[str, str] | None = getattr(module, "kernel_forms", None)
        if used is None:
            continue
        own = {name: getattr(module, name) for name in OWN if hasattr(module, name)}
        here = replace(situation, **own)
        chosen = {
            name: choose(OPERATIONS[name], here, getattr(settings, name)).form for name in used
        }
        setattr(module, "kernel_forms", chosen)  # noqa: B010 - no Tensor
