"""Every difference between the two megatron-core lines that ml_models supports, 0.16 and 0.12.

One small function per difference; the rest of the package is written once.
"""

from typing import Any

import megatron.core
from megatron.core import parallel_state

from ml_models.errors import ConfigError

CORE_LINE = ".".join(megatron.core.__version__.split(".")[:2])
SUPPORTED_LINES = ("0.16", "0.12")

if CORE_LINE not in SUPPORTED_LINES:
    raise ConfigError(
        f"megatron-core {megatron.core.__version__} is installed; ml_models supports the lines "
        f"{' and '.join(SUPPORTED_LINES)}. Install megatron-core==0.16.1."
    )


def moe_layer_spec(experts: Any, router: type) -> Any:
    """A spec of core's MoELayer with our experts and router; 0.12 hard-codes its own router."""
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec

    if CORE_LINE == "0.12":
        return ModuleSpec(
            module=_layer_with_router(MoELayer, router), submodules=MoESubmodules(experts=experts)
        )
    return ModuleSpec(module=MoELayer, submodules=MoESubmodules(experts=experts, router=router))


_router_layers: dict[type, type] = {}


def _layer_with_router(layer: type, router: type) -> type:
    if router not in _router_layers:

        class RoutedMoELayer(layer):  # type: ignore[misc]
            """Core 0.12's MoELayer with another router."""

            def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
                super().__init__(config, *args, **kwargs)
                self.router = router(config=config)

        _router_layers[router] = RoutedMoELayer
    return _router_layers[router]


def num_layers_here(config: Any, vp_stage: int | None) -> int:
    """Transformer layers that this pipeline rank builds; 0.12 reads the virtual stage itself."""
    from megatron.core.transformer.transformer_block import get_num_layers_to_build

    if CORE_LINE == "0.12":
        return int(get_num_layers_to_build(config))
    pp_rank = parallel_state.get_pipeline_model_parallel_rank()
    return int(get_num_layers_to_build(config, vp_stage=vp_stage, pp_rank=pp_rank))


def stage_arguments(vp_stage: int | None) -> dict[str, Any]:
    """What GPTModel takes to know its virtual pipeline stage; 0.12 reads a global instead."""
    return {} if CORE_LINE == "0.12" else {"vp_stage": vp_stage}


def expert_groups(pg_collection: Any) -> tuple[Any, Any, Any]:
    """Process groups (EP, ETP, expert data parallel); 0.12 passes none to modules."""
    if pg_collection is not None and hasattr(pg_collection, "expt_tp"):
        return pg_collection.ep, pg_collection.expt_tp, pg_collection.expt_dp
    return (
        parallel_state.get_expert_model_parallel_group(),
        parallel_state.get_expert_tensor_parallel_group(),
        parallel_state.get_expert_data_parallel_group(),
    )


def sequence_group(router: Any) -> Any:
    """The group over which a sequence is divided (TP and CP); 0.12's router does not hold it."""
    if CORE_LINE == "0.12":
        return parallel_state.get_tensor_and_context_parallel_group()
    return router.tp_cp_group


def is_first_and_last_stage(vp_stage: int | None) -> tuple[bool, bool]:
    """Whether a (virtual) pipeline stage embeds, and whether it gives logits."""
    if CORE_LINE == "0.12":
        return (
            bool(parallel_state.is_pipeline_first_stage()),
            bool(parallel_state.is_pipeline_last_stage()),
        )
    return (
        bool(parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage)),
        bool(parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage)),
    )
