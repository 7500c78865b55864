"""Process groups of a layout: torch.distributed, then megatron-core's, all with one timeout."""

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch

from ml_train.errors import ConfigError
from ml_train.parallel.config import ParallelConfig
from ml_train.parallel.layout import Layout, World


@contextlib.contextmanager
def process_groups(
    layout: Layout, world: World, platform: Any, parallel: ParallelConfig, *, seed: int
) -> Iterator[None]:
    """Set up, seed every generator, and take down again. Inside the platform's context."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    if parallel.distributed_backend not in (None, platform.backend):
        raise ConfigError(
            f"--distributed-backend is {parallel.distributed_backend}, but the platform "
            f"{platform.name} communicates through {platform.backend}. Drop the flag."
        )
    torch.distributed.init_process_group(
        platform.backend,
        timeout=parallel.timeout,
        rank=world.rank,
        world_size=world.size,
        init_method=_meeting_point(world),
    )
    try:
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tp,
            pipeline_model_parallel_size=layout.pp,
            virtual_pipeline_model_parallel_size=layout.vp if layout.vp > 1 else None,
            expert_model_parallel_size=layout.ep,
            expert_tensor_parallel_size=layout.etp,
            # A float goes through: the core makes a timedelta of it.
            distributed_timeout_minutes=parallel.distributed_timeout_minutes,  # type: ignore[arg-type,unused-ignore]
            order="tp-cp-ep-dp-pp",
            create_gloo_process_groups=platform.needs_gloo_groups,
        )
        _same_timeout_everywhere(parallel.timeout)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        model_parallel_cuda_manual_seed(seed)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        with contextlib.suppress(RuntimeError):
            torch.distributed.destroy_process_group()


def _same_timeout_everywhere(timeout: timedelta) -> None:
    """megatron-core makes its gloo groups of expert-data ranks with torch's 30 minutes."""
    from torch.distributed import distributed_c10d

    for group, (backend, _) in distributed_c10d._world.pg_map.items():
        if "gloo" in backend or "nccl" in backend:
            distributed_c10d._set_pg_timeout(timeout, group)


def host_group(timeout: timedelta, description: str) -> Any:
    """A gloo group of all ranks for agreements between hosts. Collective."""
    return torch.distributed.new_group(backend="gloo", timeout=timeout, group_desc=description)


def _meeting_point(world: World) -> str:
    if os.environ.get("MASTER_PORT") == "0":
        raise ConfigError(
            "MASTER_PORT is 0, where processes would wait for each other for ever. Give torchrun "
            "--standalone, or a free --master-port."
        )
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return "env://"
    if world.size > 1:
        raise ConfigError(
            f"WORLD_SIZE is {world.size}, but MASTER_ADDR and MASTER_PORT are not set. Start the "
            "run with torchrun."
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
