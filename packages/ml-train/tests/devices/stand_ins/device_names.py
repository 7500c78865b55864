"""The names of torch.cuda and torch.npu on a simulated device.

SIMULATED_KIND says which device it is, npu or cuda. torch_npu.npu takes these names, and
simulated_cuda_names.py gives them to torch.cuda.
"""

import contextlib
import importlib
import os
from types import SimpleNamespace

import torch

KIND = os.environ["SIMULATED_KIND"]
library = importlib.import_module(f"simulated_{KIND}")
NAME = {"npu": "Ascend910B2", "cuda": "NVIDIA H100 80GB HBM3"}[KIND]
MEMORY_BYTES = 64 << 30


class Stream(torch.Stream):
    """A queue of a device; the simulated device has one."""

    def __new__(cls, device=None, priority=0, **_):
        return super().__new__(cls, device=torch.device(KIND, _index(device)), priority=priority)

    npu_stream = cuda_stream = 0


class Event(torch.Event):
    """A mark in a queue."""

    def __new__(cls, enable_timing=False, blocking=False, interprocess=False):
        return super().__new__(cls, device=KIND, enable_timing=enable_timing, blocking=blocking)


class device:  # noqa: N801 - torch's name
    """Makes a device the current one inside a block."""

    def __init__(self, device):
        self.index = _index(device)

    def __enter__(self):
        self.previous = library.current_device()
        library.set_device(self.index)

    def __exit__(self, *_):
        library.set_device(self.previous)


class NPUGraph:
    """Named by code that asks whether a graph is captured; none ever is."""


def _index(device):
    """Of what torch's functions take for a device; ValueError for a device of another kind."""
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.device):
        if device.type != KIND:
            raise ValueError(f"Expected a {KIND} device, but got: {device}")
        device = device.index
    return library.current_device() if device is None or device < 0 else device


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
    return library.device_count()


def set_device(device):
    """Choose this process's device."""
    library.set_device(_index(device))


def current_device():
    """Its index."""
    return library.current_device()


def synchronize(device=None):
    """Wait for all that is queued."""
    library.synchronize()


def get_device_name(device=None):
    """Of the model that is simulated."""
    return NAME


def get_device_properties(device=None):
    """Name, memory and cores."""
    return SimpleNamespace(name=NAME, total_memory=MEMORY_BYTES, multi_processor_count=24)


def get_device_capability(device=None):
    """An H100's. None, as of torch_npu, unless the environment sets it."""
    if KIND == "cuda":
        return 9, 0
    capability = os.environ.get("TORCH_NPU_DEVICE_CAPABILITY")
    return tuple(map(int, capability.split("."))) if capability else None


def mem_get_info(device=None):
    """Free and total bytes."""
    return MEMORY_BYTES - library.allocated_bytes(), MEMORY_BYTES


def memory_allocated(device=None):
    """Bytes of tensors."""
    return library.allocated_bytes()


def max_memory_allocated(device=None):
    """The most since the last reset."""
    return library.peak_bytes()


def reset_peak_memory_stats(device=None):
    """Start a new peak."""
    library.reset_peak_bytes()


def memory_stats(device=None):
    """Two of torch's figures."""
    return {
        "allocated_bytes.all.current": library.allocated_bytes(),
        "allocated_bytes.all.peak": library.peak_bytes(),
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


def _generator(device=KIND):
    index = device if isinstance(device, int) else torch.device(device).index
    return library.default_generator(-1 if index is None else index)


def get_rng_state(device=KIND):
    """As bytes on the host."""
    return _generator(device).get_state()


def set_rng_state(new_state, device=KIND):
    """The inverse of get_rng_state."""
    _generator(device).set_state(new_state)


def get_rng_state_all():
    """Of every device."""
    return [get_rng_state(index) for index in range(library.device_count())]


def manual_seed(seed):
    """Seed the current device."""
    _generator().manual_seed(int(seed))


def manual_seed_all(seed):
    """Seed every device."""
    for index in range(library.device_count()):
        _generator(index).manual_seed(int(seed))


def initial_seed():
    """Of the current device."""
    return _generator().initial_seed()


default_generators = tuple(
    library.default_generator(index) for index in range(library.device_count())
)

RANDOM = (
    *("get_rng_state", "get_rng_state_all", "initial_seed", "manual_seed", "manual_seed_all"),
    "set_rng_state",
)

__all__ = [
    "Event",
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
    "reset_max_memory_allocated",
    "reset_peak_memory_stats",
    "set_device",
    "set_rng_state",
    "set_stream",
    "stream",
    "synchronize",
    "utilization",
]
