"""The RMSNorm module; kernels/norm.py has the formula.

It works with sequence parallelism: there each tensor-parallel rank sees part of the sequence, so
the weight is marked for a sum over those ranks. (megatron-core's own torch norm refuses it.)
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from ml_models.kernels.norm import NORMS
from ml_models.layers.device import parameter_device


class RMSNorm(torch.nn.Module):
    """Weight [hidden_size], ones at first. Arguments as megatron-core gives them to a norm."""

    kernel_forms: Mapping[str, str] = MappingProxyType({"norm": "torch"})
    use_compiled = False

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(
            torch.ones(hidden_size, dtype=config.params_dtype, device=parameter_device(config))
        )
        # Read by megatron-core, which sums the gradients of such weights over the TP ranks.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        norm = NORMS[self.kernel_forms["norm"]]
        return norm(x, self.weight, self.eps, self.use_compiled)
