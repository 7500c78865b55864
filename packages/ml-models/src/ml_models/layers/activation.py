"""Activations by the name that a configuration gives, with their derivatives, in fp32."""

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Derivative = Callable[[Tensor, Tensor], Tensor]


def _gelu_tanh(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def _gelu_erf(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x)


FORWARD: MappingProxyType[str, Function] = MappingProxyType(
    {"gelu_tanh": _gelu_tanh, "gelu_erf": _gelu_erf, "silu": torch.nn.functional.silu}
)

BACKWARD: MappingProxyType[str, Derivative] = MappingProxyType(
    {
        "gelu_tanh": lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="tanh"),
        "gelu_erf": lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="none"),
        "silu": lambda grad, x: torch.ops.aten.silu_backward(grad, x),
    }
)
"""(gradient of the result, input) -> gradient of the input."""
