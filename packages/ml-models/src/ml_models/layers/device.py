"""Where a module's parameters are made."""

from typing import Any

import torch


def parameter_device(config: Any) -> torch.device:
    """The CPU if the configuration says so or nothing else is there, else this process's device."""
    accelerator = None if config.use_cpu_initialization else torch.accelerator.current_accelerator()
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())
