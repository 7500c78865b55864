"""Importing it gives this process CUDA devices: torch.cuda's names on the simulated device.

The library must have been preloaded: torch looks for CUDA's hooks once. NCCL is a process group of
the library, with gloo underneath.
"""

import contextlib
from types import SimpleNamespace

import device_names
import simulated_cuda
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

for _name in device_names.__all__:
    setattr(torch.cuda, _name, getattr(device_names, _name))
for _name in device_names.RANDOM:
    setattr(torch.cuda.random, _name, getattr(device_names, _name))
for _name in ("_lazy_init", "_lazy_call", "_is_in_bad_fork", "default_generators"):
    setattr(torch.cuda, _name, getattr(device_names, _name))
torch.cuda._initialized = True
torch.cuda.nvtx = SimpleNamespace(
    range_push=lambda _: None, range_pop=lambda: None, range=contextlib.nullcontext
)
torch.accelerator.current_accelerator = lambda check_available=False: torch.device("cuda")
torch.accelerator.current_device_index = device_names.current_device
torch.accelerator.is_available = lambda: True


class _AnyGroup(type):
    """torch asks isinstance(group, ProcessGroupNCCL) of groups that it has made as such."""

    def __instancecheck__(cls, value):
        return True


class ProcessGroupNCCL(metaclass=_AnyGroup):
    """torch's constructor of NCCL's groups."""

    class Options:
        """What megatron-core sets of them."""

        def __init__(self, *_, **__):
            self.config = SimpleNamespace()
            self._timeout = distributed_c10d.default_pg_timeout

    def __new__(cls, store, rank, size, options):
        gloo = distributed_c10d.ProcessGroupGloo(store, rank, size, timeout=options._timeout)
        return simulated_cuda.process_group(gloo)


dist.ProcessGroupNCCL = distributed_c10d.ProcessGroupNCCL = ProcessGroupNCCL
dist.is_nccl_available = distributed_c10d.is_nccl_available = lambda: True
distributed_c10d.default_pg_nccl_timeout = distributed_c10d.default_pg_timeout
torch._C._distributed_c10d.Backend._set_default_timeout = lambda *_: None
# Asked for by the log of torch's distributed checkpoints.
torch.cuda.nccl.version = lambda: (2, 27, 3)
