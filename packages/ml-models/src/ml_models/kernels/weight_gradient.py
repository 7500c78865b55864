"""Adding a product to a weight's gradient: in the buffer's fp32, without a tensor in bf16 between.

The buffer is that of megatron-core's DistributedDataParallel. Forms are those of WEIGHT_GRADIENT in
kernels/forms.py:

    add                       a product in the factors' dtype, then a sum
    addmm                     torch.addmm with a dtype of its own for sums and result (cuda)
    npu_grouped_matmul_add_   torch_npu's product that adds in fp32, for all groups in one kernel
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ml_models.kernels.npu import torch_npu

NPU_ADD = "npu_grouped_matmul_add_"


def add_product(target: Tensor, first: Tensor, second: Tensor, form: str) -> None:
    """target [M, N] += first [K, M]^T @ second [K, N].

    The factors have the same dtype; the target has it as well, or is fp32.
    """
    if target.dtype == first.dtype:
        target.addmm_(first.t(), second)
    elif form == "addmm":
        # Sums of bf16 products are kept in fp32 and added there.
        torch.addmm(target, first.t(), second, out_dtype=target.dtype, out=target)
    elif form == NPU_ADD:
        add_grouped(target, first, second, ends_of([first.shape[0]], target.device))
    else:
        target.add_(torch.mm(first.t(), second))


def add_grouped(target: Tensor, first: Tensor, second: Tensor, ends: Tensor) -> None:
    """For each group g of rows: target[g] += first[g]^T @ second[g], by torch_npu.

    target fp32 [groups * M, N] or [groups, ..., N], contiguous; first [n, M] and second [n, N] in
    a half type; ends int64 [groups], where each group's rows end. Without rows nothing is called.
    Contract: the test and the schema of npu_grouped_matmul_add_ at github.com/Ascend/op-plugin, and
    MindSpeed's page of npu_groupmatmul_add_fp32, which has the same product.
    """
    if first.shape[0]:
        torch_npu().npu_grouped_matmul_add_(
            target.view(-1, second.shape[1]),
            first.contiguous(),
            second.contiguous(),
            ends,
            transpose_x=True,
            transpose_weight=False,
            group_type=2,  # groups divide the rows that the product sums over
        )


def ends_of(
    counts: Sequence[int], device: torch.device, dtype: torch.dtype = torch.int64
) -> Tensor:
    """Where each group's rows end [groups], on the device. The host does not wait for the copy."""
    ends = torch.tensor(list(accumulate(counts)), dtype=dtype)
    return ends.to(device, non_blocking=True)
