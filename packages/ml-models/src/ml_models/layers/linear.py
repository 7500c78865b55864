"""Weight gradients of megatron-core's linear layers, in the form of WEIGHT_GRADIENT.

Core's ColumnParallelLinear and RowParallelLinear (attention's projections, an output layer) add
their gradient to the fp32 buffer by a product of apex, behind gradient_accumulation_fusion.
platforms/device_core.py puts a product of torch or torch_npu in apex's place, and here the layers
are told to use it.
"""

from collections.abc import Iterator

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear


def declare_forms(model: torch.nn.Module) -> None:
    """Give the layers the attribute by which set_forms finds them."""
    for layer in _linear_layers(model):
        setattr(layer, "kernel_forms", {"weight_gradient": "add"})  # noqa: B010 - no Tensor


def add_gradients_to_buffers(wrapped: torch.nn.Module) -> None:
    """Let the layers whose form is not `add` add to the buffers of DistributedDataParallel.

    Called when these buffers exist. A buffer of the weight's own dtype needs no other product. A
    weight that a layer shares with the embedding is left out: autograd sums its two gradients, and
    the embedding has no such product.
    """
    for layer in _linear_layers(wrapped):
        forms: dict[str, str] = getattr(layer, "kernel_forms", {})
        weight = getattr(layer, "weight", None)
        buffer = getattr(weight, "main_grad", None)
        if weight is None or buffer is None or buffer.dtype == weight.dtype:
            continue
        if forms.get("weight_gradient", "add") != "add":
            shared = getattr(weight, "zero_out_wgrad", False)
            setattr(layer, "gradient_accumulation_fusion", not shared)  # noqa: B010 - no Tensor


def _linear_layers(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for module in model.modules():
        if isinstance(module, (ColumnParallelLinear, RowParallelLinear)):
            yield module
