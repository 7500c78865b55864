"""torch.compile's scheduler fuses element-wise work into the kernels that it must."""

import pytest
import torch
from torch._inductor.graph import GraphLowering

from ml_models.costs.compiled import fused_kernels
from ml_models.errors import RequirementError

NEEDS_A_LATER_TORCH = pytest.mark.skipif(
    not hasattr(GraphLowering, "_update_scheduler"), reason="torch is too old"
)


def rows(*sizes: int) -> torch.Tensor:
    return torch.empty(sizes, dtype=torch.bfloat16, device="meta")


@NEEDS_A_LATER_TORCH
def test_elementwise_work_is_one_kernel_that_moves_each_tensor_once() -> None:
    def work(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first.float().tanh() * second.float() + 1).to(first.dtype)

    (kernel,) = fused_kernels(work, [rows(256, 128), rows(256, 128)])
    assert kernel.moved_bytes == 3 * 256 * 128 * 2
    assert not kernel.reduces


@NEEDS_A_LATER_TORCH
def test_sum_over_rows_and_over_columns_take_two_kernels() -> None:
    def work(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.float().sum(0), x.float().sum(1)

    kernels = fused_kernels(work, [rows(4096, 512)])
    assert len(kernels) >= 2
    assert all(kernel.reduces for kernel in kernels)


@NEEDS_A_LATER_TORCH
def test_change_of_an_argument_costs_no_copy() -> None:
    def work(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2).exp_()

    (kernel,) = fused_kernels(work, [rows(64, 64)])
    assert kernel.moved_bytes == 2 * 64 * 64 * 2


@NEEDS_A_LATER_TORCH
def test_matrix_product_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="product is not|such as a matrix product"):
        fused_kernels(lambda x: x @ x, [rows(64, 64)])


def test_a_torch_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.6 is the lowest that the package takes; it has no such method."""
    monkeypatch.delattr(GraphLowering, "_update_scheduler", raising=False)
    with pytest.raises(RequirementError, match=r"too old .* pip install 'torch>=2\.13'"):
        fused_kernels(lambda x: x + 1, [rows(4, 4)])
