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


def place(module: torch.nn.Module, device: torch.device) -> None:
    """Move the parameters and buffers of `module` that are not on `device`, each with its marks.

    megatron-core makes a router's weight on the host. `Module.to` keeps the parameter object only
    between devices that torch knows by name. On an npu it makes a new parameter, which has lost
    `sequence_parallel`, and the gradients of the ranks of a tensor-parallel group then stay apart.
    """
    moved: dict[int, torch.nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.device != device:
                # A weight that two modules share is moved once and stays shared.
                if id(parameter) not in moved:
                    moved[id(parameter)] = _on(device, parameter)
                setattr(owner, name, moved[id(parameter)])
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.device != device:
                setattr(owner, name, buffer.to(device))


def _on(device: torch.device, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    values = parameter.detach().to(device)
    placed = torch.nn.Parameter(values, requires_grad=parameter.requires_grad)
    placed.__dict__.update(parameter.__dict__)
    return placed
