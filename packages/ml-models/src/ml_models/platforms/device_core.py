"""What megatron-core must do differently on every device that is not the CPU, cuda and npu alike.

Each row is exercised by ml-train's tests on a simulated device.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ml_models.kernels.weight_gradient import NPU_ADD, add_product
from ml_models.platforms.patch import ABSENT, Patch

Norm = tuple[torch.Tensor, None]


def _norm_on_device(original: Callable[..., Norm]) -> Callable[..., Norm]:
    # apex's and TransformerEngine's kernels stay on the device by themselves.
    if getattr(original, "__name__", "") != "local_multi_tensor_l2_norm":
        return original

    def l2_norm(
        _chunk_size: int,
        _noop_flag: torch.Tensor,
        tensor_lists: Sequence[Sequence[torch.Tensor]],
        _per_tensor: bool,
        *_: object,
    ) -> Norm:
        """Norm of all tensors as one vector, float32 [1], and nothing per tensor."""
        tensors = [tensor for tensors in tensor_lists for tensor in tensors]
        norms = torch.stack(torch._foreach_norm(tensors))
        return torch.linalg.vector_norm(norms).float().reshape(1), None

    return l2_norm


class WeightGradientProducts:
    """apex's module fused_weight_gradient_mlp_cuda, by products of torch and torch_npu.

    Its two functions add grad_output [T, out]^T @ input [T, in] to main_grad [out, in].
    """

    def __init__(self, device: str | None = None) -> None:
        """device: a type of torch's that decides the form, None for that of the buffer."""
        self._device = device

    def wgrad_gemm_accum_fp32(self, input: Tensor, grad_output: Tensor, main_grad: Tensor) -> None:  # noqa: A002 - apex's name
        """For a buffer in fp32."""
        device = self._device or main_grad.device.type
        add_product(main_grad, grad_output, input, NPU_ADD if device == "npu" else "addmm")

    wgrad_gemm_accum_fp16 = wgrad_gemm_accum_fp32
    """For a buffer in the factors' dtype."""


WEIGHT_GRADIENTS = Patch(
    target="megatron.core.tensor_parallel.layers:fused_weight_gradient_mlp_cuda",
    make=lambda original: WeightGradientProducts() if original is ABSENT else original,
    reason="without apex a linear layer makes its weight's gradient in bf16 and adds that",
    link="https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/tensor_parallel/layers.py",
)

ON_DEVICE: tuple[Patch, ...] = (
    Patch(
        target="megatron.core.optimizer.clip_grads:l2_norm_impl",
        make=_norm_on_device,
        reason="without apex the host waits for the norm of every parameter's gradient",
        link="https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/utils.py",
    ),
    WEIGHT_GRADIENTS,
)
