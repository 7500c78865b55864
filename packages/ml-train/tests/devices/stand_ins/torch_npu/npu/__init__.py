"""torch.npu: the names of torch_npu.npu, which are those of torch.cuda."""

import device_names
from device_names import *  # noqa: F403 - its __all__ is the surface
from device_names import _is_in_bad_fork, _lazy_call, _lazy_init, default_generators  # noqa: F401

from torch_npu.npu import random
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

# transfer_to_npu gives torch.cuda these names.
__all__ = list(device_names.__all__)
__all__ += ["BFloat16Tensor", "BoolTensor", "ByteTensor", "DoubleTensor", "FloatTensor"]
__all__ += ["HalfTensor", "IntTensor", "LongTensor", "random"]
