"""torch's _fused_adamw_ on the NPU, by the contract of Ascend's kernel.

Steps are float32 tensors on the device, already counted up; the learning rate is a number.
Source: https://github.com/Ascend/op-plugin/blob/master/op_plugin/ops/opapi/FusedAdamWKernelNpuOpApi.cpp
"""

import torch

calls = 0
"""Of the kernel in this process."""


def _adamw(
    parameters,
    gradients,
    first_moments,
    second_moments,
    largest_moments,
    steps,
    *,
    lr,
    beta1,
    beta2,
    weight_decay,
    eps,
    amsgrad,
    maximize,
    grad_scale=None,
    found_inf=None,
):
    global calls
    calls += 1
    assert not (amsgrad or maximize or largest_moments) and grad_scale is found_inf is None
    assert isinstance(lr, float)
    for parameter, gradient, first, second, step in zip(
        parameters, gradients, first_moments, second_moments, steps, strict=True
    ):
        tensors = (parameter, gradient, first, second, step)
        assert {tensor.device.type for tensor in tensors} == {"npu"}
        assert step.dtype == torch.float32 and step.dim() == 0
        parameter.mul_(1 - lr * weight_decay)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second / (1 - beta2**step)).sqrt_().add_(eps)
        parameter.sub_(lr * (first / (1 - beta1**step)) / scale)


def register():
    """As torch_npu does when it is imported."""
    global library
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")
    library.impl("_fused_adamw_", _adamw)
