"""Process groups on the CPU for tests: this process alone, or spawned ones that run many checks."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

_entered: list[Any] = []


def start(rank: int, world_size: int, folder: str) -> None:
    """Join a gloo group through a file in `folder`, with the CPU platform applied."""
    from ml_models.platforms import get_platform

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1 if world_size > 1 else 2)
    platform = get_platform("cpu")
    platform.apply()
    _entered.append(platform.context())
    _entered[-1].__enter__()
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{Path(folder) / 'store'}",
        rank=rank,
        world_size=world_size,
    )


def layout(tp: int = 1, pp: int = 1, ep: int = 1, etp: int = 1) -> None:
    """(Re)make megatron-core's process groups."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    parallel_state.destroy_model_parallel()
    # Core 0.12 forgets the groups but not who was in them.
    parallel_state._EMBEDDING_GLOBAL_RANKS = None
    parallel_state._POSITION_EMBEDDING_GLOBAL_RANKS = None
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp,
    )
    model_parallel_cuda_manual_seed(1)


def start_alone() -> None:
    """This process as a world of one, once per session."""
    if not torch.distributed.is_initialized():
        start(0, 1, tempfile.mkdtemp())
    layout()
