"""Adam's update of all parameters: whose kernel makes it.

megatron-core takes the FusedAdam of TransformerEngine, apex or MindSpeed where it can import one,
and torch's AdamW else. torch's AdamW launches kernels per operation (foreach) unless its parameter
groups say `fused`: then a kernel reads and writes parameter, gradient and moments once. On a GPU it
updates many parameters, on an NPU a single one (aclnnApplyAdamWV2).
Source: https://github.com/Ascend/op-plugin/blob/master/op_plugin/ops/opapi/FusedAdamWKernelNpuOpApi.cpp

This module does not import torch.
"""

import sys

from ml_models.kernels.installed import is_importable
from ml_models.kernels.selection import ANY_DEVICE, Form, Operation, Situation

LIBRARIES = {"cuda": ("transformer_engine", "apex"), "npu": ("transformer_engine", "mindspeed")}
"""Packages with a FusedAdam for a device. TE-NPU has the name of TransformerEngine."""


def _library(situation: Situation) -> str:
    names = LIBRARIES.get(situation.device, ())
    if any(map(is_importable, names)):
        return ""
    return f"{' and '.join(names)} are not installed" if names else "it runs on cuda and npu"


def _fused(situation: Situation) -> str:
    return why_not_fused(situation.device)


def why_not_fused(device: str) -> str:
    """Why torch's AdamW has no fused kernel on a device of this type, as a Hindrance; or ""."""
    if device == "cuda":
        return ""
    if device != "npu":
        return f"it is for cuda and npu, and the device is {device}"
    if "torch_npu" not in sys.modules:
        return "" if is_importable("torch_npu") else "torch_npu is not installed"
    # torch would compute a missing kernel on the CPU, with copies to and fro in every step.
    torch = sys.modules["torch"]
    if torch._C._dispatch_has_kernel_for_dispatch_key("aten::_fused_adamw_", "PrivateUse1"):
        return ""
    return "this torch_npu has no _fused_adamw_"


ADAM = Operation(
    name="adam",
    forms=(
        Form(name="torch", text="torch's AdamW, kernels per operation"),
        Form(name="fused", text="torch's AdamW with fused=True", hindrance=_fused),
        Form(
            name="library",
            text="FusedAdam of TransformerEngine, apex or MindSpeed, which megatron-core takes",
            hindrance=_library,
        ),
    ),
    order={
        "cuda": ("library", "fused", "torch"),
        "npu": ("library", "fused", "torch"),
        # On a CPU the losses of older versions stay what they were, to the bit.
        ANY_DEVICE: ("torch",),
    },
)
