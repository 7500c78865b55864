"""Gradients of the experts' weights: into megatron-core's fp32 buffer, or into a tensor.

Under megatron-core's DistributedDataParallel the weights' gradients are added to its buffer
(`main_grad`) by the products that compute them. A tensor of all experts' gradients, new in each
step, would cost more than its arithmetic: 100 MiB are 25,000 page faults.
"""

from typing import Any

import torch
from torch import Tensor


class WeightGradient:
    """The gradient of a weight: part of megatron-core's buffer if that exists, else a tensor.

    `result` is what autograd gets. Beside a buffer its values are never read, as for core's own
    gradient_accumulation_fusion: DistributedDataParallel's hook looks at grad_added_to_main_grad.
    """

    def __init__(self, weight: Any, form: str) -> None:
        self.result = torch.empty_like(weight)
        self._form = form
        self._sum: Tensor | None = None
        if hasattr(weight, "grad_added_to_main_grad") and weight.requires_grad:
            self._sum = weight.main_grad
            weight.grad_added_to_main_grad = True

    def add(self, expert: int, first: Tensor, second: Tensor) -> None:
        """Set the gradient of `expert` to first @ second, or add that to the buffer."""
        if self._sum is None:
            torch.mm(first, second, out=self.result[expert].view(first.shape[0], -1))
            return
        target = self._sum[expert].view(first.shape[0], -1)
        if target.dtype == first.dtype:
            target.addmm_(first, second)
        elif self._form == "addmm":
            # Sums of bf16 products are kept in fp32 and added there: no tensor in bf16 between.
            torch.addmm(target, first, second, out_dtype=target.dtype, out=target)
        else:
            target.add_(torch.mm(first, second))
