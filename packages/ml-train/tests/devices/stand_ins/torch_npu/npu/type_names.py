"""torch.npu.FloatTensor and its like: classes that name a device and a dtype."""

import torch


class _TensorType(type):
    def __instancecheck__(cls, value):
        if not isinstance(value, torch.Tensor):
            return False
        return value.device.type == "npu" and value.dtype == cls.dtype

    def __call__(cls, *sizes_or_values):
        if sizes_or_values and isinstance(sizes_or_values[0], (list, tuple)):
            return torch.tensor(sizes_or_values[0], dtype=cls.dtype, device="npu")
        return torch.empty(sizes_or_values, dtype=cls.dtype, device="npu")


BFloat16Tensor = _TensorType("BFloat16Tensor", (), {"dtype": torch.bfloat16})
BoolTensor = _TensorType("BoolTensor", (), {"dtype": torch.bool})
ByteTensor = _TensorType("ByteTensor", (), {"dtype": torch.uint8})
DoubleTensor = _TensorType("DoubleTensor", (), {"dtype": torch.float64})
FloatTensor = _TensorType("FloatTensor", (), {"dtype": torch.float32})
HalfTensor = _TensorType("HalfTensor", (), {"dtype": torch.float16})
IntTensor = _TensorType("IntTensor", (), {"dtype": torch.int32})
LongTensor = _TensorType("LongTensor", (), {"dtype": torch.int64})
