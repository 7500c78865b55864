"""The table of what megatron-core must do differently on a CPU with gloo.

Each row is exercised by tests/platforms/test_cpu.py; leave a row out and a test fails.
"""

from collections.abc import Callable, Sequence

import numpy
import torch
from torch.distributed import ProcessGroup

from ml_models.megatron_core.lines import Lines
from ml_models.platforms.cpu_device import with_type_names
from ml_models.platforms.gloo import gather_uneven, reduce_scatter_uneven
from ml_models.platforms.patch import ABSENT, Patch

_CORE = "https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/"

Operation = Callable[..., torch.Tensor]


def _gather(original: Operation) -> Operation:
    def gather_along_first_dim(
        input_: torch.Tensor,
        group: ProcessGroup,
        output_split_sizes: Sequence[int] | None = None,
        use_global_buffer: bool = False,
    ) -> torch.Tensor:
        if output_split_sizes is None or torch.distributed.get_world_size(group) == 1:
            return original(input_, group, None, use_global_buffer)
        return gather_uneven(input_, group, output_split_sizes)

    return gather_along_first_dim


def _reduce_scatter(original: Operation) -> Operation:
    def reduce_scatter_along_first_dim(
        input_: torch.Tensor,
        group: ProcessGroup,
        input_split_sizes: Sequence[int] | None = None,
        use_global_buffer: bool = False,
    ) -> torch.Tensor:
        if input_split_sizes is None or torch.distributed.get_world_size(group) == 1:
            return original(input_, group, None, use_global_buffer)
        return reduce_scatter_uneven(input_, group, input_split_sizes)

    return reduce_scatter_along_first_dim


def _to_host(_: object) -> Callable[..., object]:
    def maybe_move_tensor_to_cpu(
        tensor: object, as_numpy: bool = False, *_: object, **__: object
    ) -> object:
        return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor

    return maybe_move_tensor_to_cpu


def _without_fp8(original: Callable[..., None]) -> Callable[..., None]:
    def quantize_param_shard(
        model_params: Sequence[object], *rest: object, **options: object
    ) -> None:
        if model_params:
            original(model_params, *rest, **options)

    return quantize_param_shard


class _NumpyWithProduct:
    """numpy under the names of its version 1 that megatron-core 0.12.1 still uses."""

    product = staticmethod(numpy.prod)

    def __getattr__(self, name: str) -> object:
        return getattr(numpy, name)


def _get_rng(_: object) -> Operation:
    def get_rng_state(*_: object, **__: object) -> torch.Tensor:
        return torch.get_rng_state()

    return get_rng_state


def _set_rng(_: object) -> Callable[..., None]:
    def set_rng_state(new_state: torch.Tensor, *_: object, **__: object) -> None:
        torch.set_rng_state(new_state)

    return set_rng_state


_UNEVEN = "gloo has no {} of unequal pieces, which expert tensor parallelism needs"
_TYPES = "it accepts a parameter only if type() starts with torch.cuda"
_QUEUED = "it queues the change until CUDA is initialised, which never comes"

CORE: tuple[Patch, ...] = (
    Patch(
        target="megatron.core.tensor_parallel.mappings:_gather_along_first_dim",
        make=_gather,
        reason=_UNEVEN.format("all-gather"),
        link=_CORE + "tensor_parallel/mappings.py",
    ),
    Patch(
        target="megatron.core.tensor_parallel.mappings:_reduce_scatter_along_first_dim",
        make=_reduce_scatter,
        reason=_UNEVEN.format("reduce-scatter"),
        link=_CORE + "tensor_parallel/mappings.py",
    ),
    Patch(
        target="megatron.core.transformer.moe.token_dispatcher:maybe_move_tensor_to_cpu",
        make=_to_host,
        reason="split sizes become numpy only when they come from a CUDA tensor",
        link=_CORE + "transformer/moe/token_dispatcher.py",
    ),
    Patch(
        target="megatron.core.transformer.moe.moe_utils:te_general_gemm",
        make=lambda original: None if original is ABSENT else original,
        reason="the router reads a name that exists only with TransformerEngine",
        lines=Lines("0.13", "0.16"),
        link=_CORE + "transformer/moe/moe_utils.py",
    ),
    Patch(
        target="megatron.core.tensor_parallel.random:_get_cuda_rng_state",
        make=_get_rng,
        reason="it reads the generator of a CUDA device",
        link=_CORE + "tensor_parallel/random.py",
    ),
    Patch(
        target="megatron.core.tensor_parallel.random:_set_cuda_rng_state",
        make=_set_rng,
        reason=_QUEUED,
        link=_CORE + "tensor_parallel/random.py",
    ),
    Patch(
        target="megatron.core.optimizer.optimizer:Float16OptimizerWithFloat16Params.__init__",
        make=with_type_names,
        reason=_TYPES,
        link=_CORE + "optimizer/optimizer.py",
    ),
    Patch(
        target="megatron.core.optimizer.distrib_optimizer:DistributedOptimizer.__init__",
        make=with_type_names,
        reason=_TYPES,
        link=_CORE + "optimizer/distrib_optimizer.py",
    ),
    Patch(
        target="megatron.core.optimizer.optimizer:clip_grad_by_total_norm_fp32",
        make=with_type_names,
        reason="it asserts that gradients are torch.cuda.FloatTensor",
        link=_CORE + "optimizer/clip_grads.py",
    ),
    Patch(
        target="megatron.core.optimizer.distrib_optimizer:quantize_param_shard",
        make=_without_fp8,
        reason="it asks for TransformerEngine even where no parameter has 8 bits",
        lines=Lines("0.12", "0.12"),
        link=_CORE.replace("0.16.1", "0.12.1") + "fp8_utils.py",
    ),
    Patch(
        target="megatron.core.dist_checkpointing.validation:np",
        make=lambda _: _NumpyWithProduct(),
        reason="it calls numpy.product, which numpy 2 lacks, on the distributed optimizer's state",
        lines=Lines("0.12", "0.15"),
        link=_CORE.replace("0.16.1", "0.12.1") + "dist_checkpointing/validation.py",
    ),
)

# What does not depend on the device: TransformerEngine and numpy 1 are no requirement on cuda and
# npu either.
WITHOUT_TRANSFORMER_ENGINE = tuple(
    row
    for row in CORE
    if row.target.endswith(("te_general_gemm", "quantize_param_shard", "validation:np"))
)
# torch_npu names the types of its tensors torch.npu.FloatTensor and so on.
TYPE_NAMES = tuple(row for row in CORE if row.make is with_type_names)
