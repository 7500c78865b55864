"""torch.cuda after torch_npu's transfer_to_npu: what it means, and what torch cannot take from it.

transfer_to_npu gives torch.cuda the functions of torch.npu for the whole process, so that code
written for CUDA runs on an NPU. Then torch.cuda.is_available() answers for the NPU.
"""

import functools
import sys
from collections.abc import Callable

from ml_models.platforms.patch import Patch

TRANSFER = "torch_npu.contrib.transfer_to_npu"


def cuda_means_npu() -> bool:
    """Whether torch.cuda is an NPU in this process. MindSpeed's adaptor also transfers."""
    return TRANSFER in sys.modules


Capability = Callable[..., tuple[int, int]]


def _capability(original: Callable[..., tuple[int, int] | None]) -> Capability:
    @functools.wraps(original)
    def get_device_capability(device: object = None) -> tuple[int, int]:
        # Torch asks whether the number is at least that of a GPU with some feature: an NPU has
        # none of them. TORCH_NPU_DEVICE_CAPABILITY sets another answer.
        return original(device) or (0, 0)

    return get_device_capability


TORCH_CUDA_ON_NPU: tuple[Patch, ...] = (
    Patch(
        target="torch.cuda:get_device_capability",
        make=_capability,
        reason=(
            "torch_npu answers None, and torch.distributed.broadcast compares it with a number "
            "from torch 2.13 on, as FlexAttention and others do"
        ),
        link="https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/distributed_c10d.py",
    ),
)
