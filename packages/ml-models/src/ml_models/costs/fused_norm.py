"""torch's fused RMSNorm of a GPU on tensors without values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ml_models.costs.operations import size_bytes
from ml_models.costs.stand_in_kernel import Launches, launch
from ml_models.platforms.patch import Patch


def norm_stand_in(launches: Launches) -> Patch:
    """The row, for the time of a step."""
    return Patch(
        target="torch.nn.functional:rms_norm",
        make=lambda _: lambda x, _, weight, __: launch(FusedNorm(launches), x, weight),
        reason="a CPU computes it by many operations, a GPU by a kernel",
    )


@dataclass(frozen=True)
class FusedNorm:
    """It keeps the input, the weight and an fp32 number per row.

    ATen's native/cuda/layer_norm_kernel.cu: the gradients of the input and of the weight are
    kernels of their own, which both read the input and the result's gradient.
    """

    launches: Launches

    def forward(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The result, and what is kept."""
        x, weight = inputs
        rows = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        moved = 2 * size_bytes(x) + size_bytes(weight)
        self.launches.record("rms_norm", "other", x.dtype, moved)
        return torch.empty_like(x), (x, weight, rows)

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the input and the weight."""
        x, weight, _ = kept
        read = size_bytes(x) + size_bytes(grad)
        for name, written in (("rms_norm of x", x), ("rms_norm of weight", weight)):
            self.launches.record(name, "other", x.dtype, read + size_bytes(written))
        return torch.empty_like(x), torch.empty_like(weight)
