"""A stand-in of torch_npu: its documented Python surface, on the simulated device.

What ml-models, ml-train and megatron-core use of torch_npu is here under torch_npu's names. Its
fused operators (torch_npu.npu_...) are absent; torch's _fused_adamw_ has a kernel.
The library that build_library.py compiles must be importable.
"""

import simulated_npu
import torch
from torch.distributed import distributed_c10d

from torch_npu import npu

__version__ = torch.__version__.split("+")[0]

torch.utils.rename_privateuse1_backend("npu")
torch._register_device_module("npu", npu)
torch.utils.generate_methods_for_privateuse1_backend(
    for_tensor=True, for_module=True, for_storage=True
)


def _make_process_group(options, _backend_options):
    gloo = distributed_c10d.ProcessGroupGloo(
        options.store, options.group_rank, options.group_size, timeout=options.timeout
    )
    return simulated_npu.process_group(gloo)


torch.distributed.Backend.register_backend(
    "hccl", _make_process_group, extended_api=True, devices=["npu"]
)
torch.distributed.is_hccl_available = lambda: True
