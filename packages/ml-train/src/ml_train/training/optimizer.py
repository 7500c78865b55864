"""The optimizer of a run: megatron-core's Adam over all model chunks of a rank."""

from typing import TYPE_CHECKING

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

from ml_models.kernels.adam import why_not_fused
from ml_train.checkpoint.tensors.adam import TORCH_ADAM, inner_optimizers
from ml_train.config.run import RunConfig

if TYPE_CHECKING:
    from megatron.core.optimizer.optimizer import MegatronOptimizer

    from ml_models.platforms.base import Platform


def make_optimizer(
    config: RunConfig, chunks: list[DistributedDataParallel], platform: "Platform"
) -> "MegatronOptimizer":
    """Adam, with float32 main parameters in a bf16 run. Collective: it makes process groups."""
    settings, training = config.optimizer, config.training
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            min_lr=settings.min_lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.adam_beta1,
            adam_beta2=settings.adam_beta2,
            adam_eps=settings.adam_eps,
            clip_grad=settings.clip_grad,
            bf16=training.bf16,
            params_dtype=torch.bfloat16 if training.bf16 else torch.float32,
            use_distributed_optimizer=settings.use_distributed_optimizer,
        ),
        chunks,
        use_gloo_process_groups=platform.needs_gloo_groups,
    )
    if not why_not_fused(platform.device.type):
        fuse_adam(optimizer)
    return optimizer


def fuse_adam(optimizer: "MegatronOptimizer") -> None:
    """Let torch's Adam use its fused kernel; other libraries' optimizers stay as they are.

    megatron-core passes no argument on to torch's Adam. The flag of a parameter group is what
    torch reads in each update, so that it can be set behind the constructor, on every line of core.
    """
    for inner in inner_optimizers(optimizer):
        if isinstance(inner, TORCH_ADAM):
            for settings in (inner.defaults, *inner.param_groups):
                settings["fused"] = True
