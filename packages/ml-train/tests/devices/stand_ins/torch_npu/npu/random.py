"""The random generators of the devices."""

import simulated_npu
import torch

__all__ = [
    "get_rng_state",
    "get_rng_state_all",
    "initial_seed",
    "manual_seed",
    "manual_seed_all",
    "set_rng_state",
]


def _generator(device="npu"):
    index = device if isinstance(device, int) else torch.device(device).index
    return simulated_npu.default_generator(-1 if index is None else index)


def get_rng_state(device="npu"):
    """As bytes on the host."""
    return _generator(device).get_state()


def set_rng_state(new_state, device="npu"):
    """The inverse of get_rng_state."""
    _generator(device).set_state(new_state)


def get_rng_state_all():
    """Of every device."""
    return [get_rng_state(index) for index in range(simulated_npu.device_count())]


def manual_seed(seed):
    """Seed the current device."""
    _generator().manual_seed(int(seed))


def manual_seed_all(seed):
    """Seed every device."""
    for index in range(simulated_npu.device_count()):
        _generator(index).manual_seed(int(seed))


def initial_seed():
    """Of the current device."""
    return _generator().initial_seed()
