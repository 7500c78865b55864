"""Process groups on the CPU for tests: this process alone, or spawned ones that run many checks."""

import gc
import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ml_models.megatron_core import differences
from ml_models.process_groups import backends_outlive_groups

_entered: list[Any] = []
_current: list[tuple[int, int, int, int]] = []


def start(rank: int, world_size: int, folder: str) -> None:
    """Join a gloo group through a file in `folder`, with the CPU platform applied."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1 if world_size > 1 else 2)
    _enter()
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{Path(folder) / 'store'}",
        rank=rank,
        world_size=world_size,
    )


def layout(tp: int = 1, pp: int = 1, ep: int = 1, etp: int = 1) -> None:
    """Make megatron-core's process groups, unless this layout's are there already."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    if _current == [(tp, pp, ep, etp)]:
        return
    with backends_outlive_groups():
        parallel_state.destroy_model_parallel()
        destroy_subgroups()
        gc.collect()  # models that are done with hold groups as well
    _current[:] = [(tp, pp, ep, etp)]
    differences.forget_embedding_ranks()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp,
    )
    model_parallel_cuda_manual_seed(1)


def destroy_subgroups() -> None:
    """End every group but the world: megatron-core forgets them, and each keeps polling threads."""
    with backends_outlive_groups():
        for group in list(torch.distributed.distributed_c10d._world.pg_map):
            if group is not torch.distributed.group.WORLD:
                torch.distributed.destroy_process_group(group)


def start_alone() -> None:
    """This process as a world of one, made once per session; `leave` gives torch its names back."""
    if torch.distributed.is_initialized():
        _enter()
    else:
        start(0, 1, tempfile.mkdtemp())
        _current.clear()
    layout()


def end_alone() -> None:
    """End the world of one, if it is there: the next `start_alone` makes it again."""
    from megatron.core import parallel_state

    if torch.distributed.is_initialized():
        with backends_outlive_groups():
            parallel_state.destroy_model_parallel()
            torch.distributed.destroy_process_group()
        _current.clear()


def leave() -> None:
    """Leave the platform's context that `start` or `start_alone` entered last."""
    _entered.pop().__exit__(None, None, None)


def _enter() -> None:
    from ml_models.platforms import get_platform

    platform = get_platform("cpu")
    platform.apply()
    _entered.append(platform.context())
    _entered[-1].__enter__()


def add_path(folder: str) -> None:
    """Make the modules in `folder` importable in this process."""
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
