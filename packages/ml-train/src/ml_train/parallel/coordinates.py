"""Where this process stands in the layout that megatron-core was set up with."""

import torch.distributed as dist
from megatron.core import parallel_state


def layout_sizes() -> dict[str, int]:
    """Size of each parallel dimension, and the number of processes as "world"."""
    return {
        "world": dist.get_world_size(),
        "tp": parallel_state.get_tensor_model_parallel_world_size(),
        "pp": parallel_state.get_pipeline_model_parallel_world_size(),
        "vp": parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1,
        "ep": parallel_state.get_expert_model_parallel_world_size(),
        "etp": parallel_state.get_expert_tensor_parallel_world_size(),
        "cp": parallel_state.get_context_parallel_world_size(),
        "dp": parallel_state.get_data_parallel_world_size(),
    }


def coordinates() -> str:
    """This rank's number in each dimension, for instance tp0-pp1-ep1-etp0-cp0-dp0."""
    return "-".join(
        (
            f"tp{parallel_state.get_tensor_model_parallel_rank()}",
            f"pp{parallel_state.get_pipeline_model_parallel_rank()}",
            f"ep{parallel_state.get_expert_model_parallel_rank()}",
            f"etp{parallel_state.get_expert_tensor_parallel_rank()}",
            f"cp{parallel_state.get_context_parallel_rank()}",
            f"dp{parallel_state.get_data_parallel_rank()}",
        )
    )
