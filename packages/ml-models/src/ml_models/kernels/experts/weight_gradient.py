"""Gradients of the experts' weights: into megatron-core's fp32 buffer, or into a tensor.

Under megatron-core's DistributedDataParallel the weights' gradients are added to its buffer
(`main_grad`) by the products that compute them. A tensor of all experts' gradients, new in each
step, would cost more than its arithmetic: 100 MiB are 25,000 page faults.
"""

from typing import Any

import torch
from torch import Tensor

from ml_models.kernels.weight_gradient import NPU_ADD, add_grouped, add_product


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
        """Set the gradient of `expert` to first^T @ second, or add that to the buffer.

        first [n, M] and second [n, N] are the expert's rows.
        """
        if self._sum is None:
            torch.mm(first.t(), second, out=self.result[expert].view(first.shape[1], -1))
        else:
            add_product(self._sum[expert].view(first.shape[1], -1), first, second, self._form)

    def add_all(
        self, first: Tensor, second: Tensor, ranges: list[tuple[int, slice]], ends: Tensor
    ) -> None:
        """`add` for all experts, in one kernel where the form has one.

        Rows are sorted by expert; `ranges` are those of each, `ends` where they end.
        """
        if self._form == NPU_ADD and self._sum is not None and self._sum.dtype != first.dtype:
            add_grouped(self._sum, first, second, ends)
            return
        for expert, rows in ranges:
            self.add(expert, first[rows], second[rows])
