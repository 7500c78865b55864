"""Every difference between the supported lines of megatron-core, one small function each.

ml_models and ml_train call these functions and are written once for all lines. A difference holds
for a range of lines whose ends were read in megatron-core's sources: a range does not change when a
line joins or leaves the supported ones.

megatron-core is imported inside the functions, because a platform adapts it before its first
import.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict

from ml_models.megatron_core.lines import SUPPORTED, Lines, installed_line

if TYPE_CHECKING:
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.moe.router import Router
    from megatron.core.transformer.spec_utils import ModuleSpec
    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.nn import Module


def _here(first: str | None = None, last: str | None = None) -> bool:
    """Whether the installed line is in a range. check.py knows this function by its name."""
    return installed_line() in Lines(first, last)


# --- Building a model ----------------------------------------------------------------------------


def moe_layer_spec(experts: "ModuleSpec", router: type) -> "ModuleSpec":
    """A spec of core's MoELayer with these experts and this router.

    From 0.16 on the router is part of the spec. Before, MoELayer makes one of its own.
    """
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec

    if _here(last="0.15"):
        return ModuleSpec(
            module=_layer_with_router(MoELayer, router), submodules=MoESubmodules(experts=experts)
        )
    return ModuleSpec(module=MoELayer, submodules=MoESubmodules(experts=experts, router=router))


@functools.cache
def _layer_with_router(layer: type, router: type) -> type:
    class RoutedMoELayer(layer):  # type: ignore[misc]
        """An older MoELayer, whose own router is replaced after it was made."""

        def __init__(self, config: "TransformerConfig", *args: object, **kwargs: object) -> None:
            super().__init__(config, *args, **kwargs)
            self.router = router(config=config)

    return RoutedMoELayer


def num_layers_here(config: "TransformerConfig", vp_stage: int | None) -> int:
    """Transformer layers that this pipeline rank builds in its virtual stage `vp_stage`.

    0.12 takes no stage: it reads the current one from a global.
    """
    from megatron.core import parallel_state
    from megatron.core.transformer.transformer_block import get_num_layers_to_build

    if _here(last="0.12"):
        return int(get_num_layers_to_build(config))
    pp_rank = parallel_state.get_pipeline_model_parallel_rank()
    return int(get_num_layers_to_build(config, vp_stage=vp_stage, pp_rank=pp_rank))


def stage_arguments(vp_stage: int | None) -> dict[str, Any]:
    """What GPTModel takes to know its virtual pipeline stage; 0.12 reads a global instead."""
    return {} if _here(last="0.12") else {"vp_stage": vp_stage}


@contextlib.contextmanager
def gpt_model_without_notice() -> Iterator[None]:
    """Inside, a GPTModel can be made without 0.19's log message that it will be removed.

    A user can do nothing about it. docs/core-lines.md has the plan for HybridModel.
    """
    logger = logging.getLogger("megatron.core.models.gpt.gpt_model")

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("GPTModel IS DEPRECATED")

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def expert_groups(
    pg_collection: Any,
) -> tuple["ProcessGroup", "ProcessGroup", "ProcessGroup"]:
    """Process groups (EP, ETP, expert data parallel) from what core gave to a module.

    0.12 gives None, so the global groups are taken.
    """
    from megatron.core import parallel_state

    if pg_collection is not None and hasattr(pg_collection, "expt_tp"):
        return pg_collection.ep, pg_collection.expt_tp, pg_collection.expt_dp
    return (
        parallel_state.get_expert_model_parallel_group(),
        parallel_state.get_expert_tensor_parallel_group(),
        parallel_state.get_expert_data_parallel_group(),
    )


def record_router_loss(
    name: str, loss: "Tensor", router: "Router", *, reduce_group: "ProcessGroup | None" = None
) -> None:
    """Add `loss` to the sum that core keeps for this router's layer.

    reduce_group: the ranks whose sums add up to the true loss; None: each rank has all of it.
    0.18 moved these sums from functions into a class.
    """
    from megatron.core.transformer.moe import moe_utils

    if _here(last="0.17"):
        moe_utils.save_to_aux_losses_tracker(
            name, loss, router.layer_number, router.config.num_layers, reduce_group=reduce_group
        )
        return
    _metrics_tracker().record(
        name, loss, router.layer_number, router.config.num_layers, reduce_group=reduce_group
    )


class RouterLoss(TypedDict, total=False):
    """The sums of a loss over the micro batches since they were last set to zero."""

    values: "Tensor"
    """Per layer, fp32 [layers]."""
    reduce_group: "ProcessGroup | None"
    """As in record_router_loss."""


def router_losses() -> dict[str, RouterLoss]:
    """The sums of record_router_loss by the name of the loss."""
    if _here(last="0.17"):
        return dict(_sums_by_name())
    return {
        name: {"values": entry.values, "reduce_group": entry.reduce_group}
        for name, entry in _metrics_tracker().metrics.items()
    }


def forget_router_losses() -> None:
    """Drop what core keeps of router losses for the process: sums, and the scale of gradients.

    Their size and device are those of a model that ended. Another model would add to them.
    """
    # The scale of the next step is written into the tensor of the first.
    _moe_utils().MoEAuxLossAutoScaler.main_loss_backward_scale = None
    if _here(last="0.17"):
        _sums_by_name().clear()
        return
    from megatron.core.transformer.moe.moe_logging import destroy_moe_metrics_tracker

    destroy_moe_metrics_tracker()


def forget_embedding_ranks() -> None:
    """Drop the ranks that hold an embedding, which 0.12 keeps when its groups are destroyed.

    A rank of the layout before would take itself for one that holds an embedding in the next.
    """
    if _here(last="0.12"):
        for name in ("_EMBEDDING_GLOBAL_RANKS", "_POSITION_EMBEDDING_GLOBAL_RANKS"):
            setattr(_parallel_state(), name, None)


def _parallel_state() -> ModuleType:
    """Core's groups; importing them here keeps this module importable without core."""
    from megatron.core import parallel_state

    return parallel_state  # type: ignore[no-any-return]


def _sums_by_name() -> dict[str, RouterLoss]:
    """Core's own table of sums, up to 0.17."""
    if _here(last="0.12"):
        return _parallel_state().get_moe_layer_wise_logging_tracker()  # type: ignore[no-any-return]
    return _moe_utils().get_moe_layer_wise_logging_tracker()  # type: ignore[no-any-return]


def _moe_utils() -> ModuleType:
    """Core's helpers of its expert layers, imported as in `_parallel_state`."""
    from megatron.core.transformer.moe import moe_utils

    return moe_utils  # type: ignore[no-any-return]


def _metrics_tracker() -> Any:
    """Core's object that keeps the sums, from 0.18 on."""
    from megatron.core.transformer.moe.moe_logging import get_moe_metrics_tracker

    return get_moe_metrics_tracker()


def sequence_group(router: "Router") -> "ProcessGroup":
    """The group over which a sequence is divided (TP and CP).

    0.12's router has no attribute for it.
    """
    from megatron.core import parallel_state

    if _here(last="0.12"):
        return parallel_state.get_tensor_and_context_parallel_group()
    return router.tp_cp_group


def is_first_and_last_stage(vp_stage: int | None) -> tuple[bool, bool]:
    """Whether a (virtual) pipeline stage has the embedding, and whether it gives logits.

    0.12 takes no stage: it reads the current one from a global.
    """
    from megatron.core import parallel_state

    if _here(last="0.12"):
        return (
            bool(parallel_state.is_pipeline_first_stage()),
            bool(parallel_state.is_pipeline_last_stage()),
        )
    return (
        bool(parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage)),
        bool(parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage)),
    )


# --- Gradients and optimizer ---------------------------------------------------------------------


def gradient_layout_arguments(
    chunk: "Module", ddp_config: "DistributedDataParallelConfig", *, bucketed: bool
) -> dict[str, object]:
    """Where each parameter of `chunk` lies in the gradient buffers of the distributed optimizer.

    These are arguments of DistributedDataParallel. From 0.18 on it warns when they are missing.
    bucketed: whether the chunk's gradients are divided into buckets of ddp_config.bucket_size.
    """
    from megatron.core import parallel_state

    if _here(last="0.17") or not ddp_config.use_distributed_optimizer:
        return {}
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    layout = DistributedOptimizer.compute_full_param_layout(
        [parameter for parameter in chunk.parameters() if parameter.requires_grad],
        ddp_config.bucket_size if bucketed else None,
        parallel_state.get_data_parallel_world_size(with_context_parallel=True),
        ddp_config,
        expert_data_parallel_world_size=parallel_state.get_expert_data_parallel_world_size(),
    )
    return {"full_param_layout": layout}


# --- Checkpoints ---------------------------------------------------------------------------------


_LINES_OF_OPTIMIZER_STATE = Lines("0.15")
"""Lines whose distributed checkpoints hold all optimizer state, whatever the layout is."""


def saves_distributed_optimizer() -> bool:
    """Whether the distributed optimizer's state can be saved; 0.12's format has no place for it."""
    return installed_line() in _LINES_OF_OPTIMIZER_STATE


def reshards_optimizer() -> bool:
    """Whether optimizer state loads in another layout than the one that saved it."""
    return installed_line() in _LINES_OF_OPTIMIZER_STATE


def first_release_of_optimizer_state() -> str:
    """The oldest tested release where both functions above hold: the way out in error messages."""
    return next(
        line.version for line in reversed(SUPPORTED) if line.name in _LINES_OF_OPTIMIZER_STATE
    )


@contextlib.contextmanager
def current_virtual_stage(number: int, total: int) -> Iterator[None]:
    """Entered where a chunk's sharded state is made: 0.12 numbers its layers by the current stage.

    total: virtual stages of this rank. Later lines keep the stage in the chunk itself.
    """
    from megatron.core import parallel_state

    if total == 1 or not _here(last="0.12"):
        yield
        return
    before = parallel_state.get_virtual_pipeline_model_parallel_rank()
    parallel_state.set_virtual_pipeline_model_parallel_rank(number)
    try:
        yield
    finally:
        parallel_state.set_virtual_pipeline_model_parallel_rank(before)


def sharding_metadata() -> dict[str, object]:
    """What core is told about a checkpoint, so that its format is the same for every layout."""
    metadata: dict[str, object] = {"non_homogeneous_layers": True}
    if _here(first="0.15"):
        metadata["chained_optim_avoid_prefix"] = True
        metadata["distrib_optim_sharding_type"] = "fully_reshardable"
    return metadata


def sharded_optimizer_arguments() -> dict[str, dict[str, object]]:
    """Arguments of an optimizer's sharded_state_dict; 0.12's plain ones know no metadata."""
    return {} if _here(last="0.12") else {"metadata": sharding_metadata()}


def load_distributed_state(optimizer: "DistributedOptimizer", parameter_state: object) -> None:
    """Give a DistributedOptimizer the state that was read for it."""
    if _here(last="0.14"):
        optimizer.load_parameter_state_from_fs_model_space(parameter_state)
    else:
        optimizer.load_parameter_state_from_fully_reshardable(parameter_state)


def gathers_distributed_state() -> bool:
    """Whether a save copies a DistributedOptimizer's state, so that no update touches the copy."""
    return _here(first="0.15")
