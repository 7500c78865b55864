"""What megatron-core must do differently on every device that is not the CPU, cuda and npu alike.

Each row is exercised by ml-train's tests on a simulated device.
"""

from collections.abc import Callable, Sequence

import torch

from ml_models.platforms.patch import Patch

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


ON_DEVICE: tuple[Patch, ...] = (
    Patch(
        target="megatron.core.optimizer.clip_grads:l2_norm_impl",
        make=_norm_on_device,
        reason="without apex the host waits for the norm of every parameter's gradient",
        link="https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/utils.py",
    ),
)
