"""On which device a module makes its parameters: the device that its configuration names.

The platform of the entry point is asked once and its device is passed to
`ml_models.build.make_transformer_config`. Nothing below asks torch what there is: a CUDA build of
torch names "cuda" as its accelerator on a machine without a GPU, too.
"""

from dataclasses import dataclass

import torch
from megatron.core.transformer import TransformerConfig

from ml_models.errors import ConfigError

CPU = torch.device("cpu")


@dataclass
class PlacedTransformerConfig(TransformerConfig):
    """megatron-core's settings, and the device of a model's parameters.

    A field, not an attribute: `copy.deepcopy` and `dataclasses.replace` keep it.
    """

    parameter_device: torch.device = CPU
    """Device with its index, as `Platform.device` gives it."""


def parameter_device(config: TransformerConfig) -> torch.device:
    """The device of parameters made from `config`; ConfigError where it names none."""
    if config.use_cpu_initialization:
        return CPU
    if not isinstance(config, PlacedTransformerConfig):
        raise ConfigError(
            f"the layers got a {type(config).__name__} that does not name the device of their "
            "parameters. Make it with ml_models.build.make_transformer_config(model, "
            "device=platform.device), or set use_cpu_initialization."
        )
    return config.parameter_device


def device_of(config: TransformerConfig) -> torch.device:
    """The device that a model made from `config` runs on."""
    # Parameters may be made on the CPU and moved, so use_cpu_initialization does not decide here.
    if isinstance(config, PlacedTransformerConfig):
        return config.parameter_device
    return parameter_device(config)
