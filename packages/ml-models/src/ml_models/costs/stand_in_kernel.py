"""A kernel with gradients on tensors without values: the memory that it takes, and its report."""

from typing import Any, Protocol

import torch
from torch import Tensor

from ml_models.costs.operations import Shape
from ml_models.costs.recorder import Kind


class Launches(Protocol):
    """Who is told of the kernels that an operation without values stands for."""

    def record(
        self,
        name: str,
        kind: Kind,
        dtype: torch.dtype,
        moved_bytes: int,
        *,
        flops: int = 0,
        shape: Shape | None = None,
    ) -> None:
        """A kernel was launched; `shape` is that of a matrix product."""
        ...


class StandInKernel(Protocol):
    """Both passes of a kernel: they make the tensors that it makes, and report it."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The result, and what is kept for the backward pass."""
        ...

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor | None, ...]:
        """A gradient per input; None where the kernel has none."""
        ...


class _Passes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: StandInKernel, *inputs: Tensor) -> Tensor:
        result, kept = kernel.forward(*inputs)
        ctx.save_for_backward(*kept)
        ctx.kernel = kernel
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.kernel.backward(grad, *ctx.saved_tensors)


def launch(kernel: StandInKernel, *inputs: Tensor) -> Tensor:
    """The kernel's result, with its gradients."""
    result: Tensor = _Passes.apply(kernel, *inputs)
    return result
