"""torch.npu: the names of torch_npu.npu, which are those of torch.cuda."""

import contextlib
import os
from types import SimpleNamespace

import simulated_npu
import torch

from torch_npu.npu import random
from torch_npu.npu.random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    set_rng_state,
)
from torch_npu.npu.type_names import (
    BFloat16Tensor,
    BoolTensor,
    ByteTensor,
    DoubleTensor,
    FloatTensor,
    HalfTensor,
    IntTensor,
    LongTensor,
)

NAME = "Ascend910B2"
MEMORY_BYTES = 64 << 30


class Stream(torch.Stream):
    """A queue of a device; the simulated device has one."""

    def __new__(cls, device=None, priority=0, **_):
        return super().__new__(cls, device=torch.device("npu", _index(device)), priority=priority)

    npu_stream = 0


class Event(torch.Event):
    """A mark in a queue."""

    def __new__(cls, enable_timing=False, blocking=False, interprocess=False):
        return super().__new__(cls, device="npu", enable_timing=enable_timing, blocking=blocking)


class device:  # noqa: N801 - torch's name
    """Makes a device the current one inside a block."""

    def __init__(self, device):
        self.index = _index(device)

    def __enter__(self):
        self.previous = simulated_npu.current_device()
        simulated_npu.set_device(self.index)

    def __exit__(self, *_):
        simulated_npu.set_device(self.previous)


class NPUGraph:
    """Named by code that asks whether a graph is captured; none ever is."""


def _index(device):
    """Of what torch's functions take for a device; ValueError for a device of another kind."""
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.device):
        if device.type != "npu":
            raise ValueError(f"Expected a npu device, but got: {device}")
        device = device.index
    return simulated_npu.current_device() if device is None or device < 0 else device


def is_available():
    """There are devices."""
    return True


def is_initialized():
    """Always so: there is nothing to start."""
    return True


def init():
    """Nothing to start."""


def _lazy_call(function):
    function()


def _lazy_init():
    pass


def _is_in_bad_fork():
    return False


def device_count():
    """Devices of this machine."""
    return simulated_npu.device_count()


def set_device(device):
    """Choose this process's device."""
    simulated_npu.set_device(_index(device))


def current_device():
    """Its index."""
    return simulated_npu.current_device()


def synchronize(device=None):
    """Wait for all that is queued."""
    simulated_npu.synchronize()


def get_device_name(device=None):
    """Of the model that is simulated."""
    return NAME


def get_device_properties(device=None):
    """Name, memory and cores."""
    return SimpleNamespace(name=NAME, total_memory=MEMORY_BYTES, multi_processor_count=24)


def get_device_capability(device=None):
    """None, as of torch_npu, unless the environment sets it."""
    capability = os.environ.get("TORCH_NPU_DEVICE_CAPABILITY")
    return tuple(map(int, capability.split("."))) if capability else None


def mem_get_info(device=None):
    """Free and total bytes."""
    return MEMORY_BYTES - simulated_npu.allocated_bytes(), MEMORY_BYTES


def memory_allocated(device=None):
    """Bytes of tensors."""
    return simulated_npu.allocated_bytes()


def max_memory_allocated(device=None):
    """The most since the last reset."""
    return simulated_npu.peak_bytes()


def reset_peak_memory_stats(device=None):
    """Start a new peak."""
    simulated_npu.reset_peak_bytes()


def memory_stats(device=None):
    """Two of torch's figures."""
    return {
        "allocated_bytes.all.current": simulated_npu.allocated_bytes(),
        "allocated_bytes.all.peak": simulated_npu.peak_bytes(),
    }


memory_reserved, max_memory_reserved = memory_allocated, max_memory_allocated
reset_max_memory_allocated = reset_peak_memory_stats


def memory_summary(device=None):
    """As text."""
    return str(memory_stats(device))


def empty_cache():
    """Nothing is cached."""


def ipc_collect():
    """Nothing is shared between processes."""


def current_stream(device=None):
    """The only one."""
    return Stream(device)


default_stream = current_stream


def set_stream(stream):
    """The only one stays."""


def stream(stream):
    """Inside, work goes to that queue."""
    return contextlib.nullcontext()


def is_current_stream_capturing():
    """No graph is captured."""
    return False


def is_bf16_supported():
    """It is."""
    return True


def utilization(device=None):
    """In percent."""
    return 0


default_generators = tuple(
    simulated_npu.default_generator(index) for index in range(simulated_npu.device_count())
)

# transfer_to_npu gives torch.cuda these names.
__all__ = [
    "BFloat16Tensor",
    "BoolTensor",
    "ByteTensor",
    "DoubleTensor",
    "Event",
    "FloatTensor",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "NPUGraph",
    "Stream",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "empty_cache",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "init",
    "initial_seed",
    "ipc_collect",
    "is_available",
    "is_bf16_supported",
    "is_current_stream_capturing",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "memory_summary",
    "random",
    "reset_max_memory_allocated",
    "reset_peak_memory_stats",
    "set_device",
    "set_rng_state",
    "set_stream",
    "stream",
    "synchronize",
    "utilization",
]
