"""torchrun groups_worker.py OUT: every process group of a run, and its timeout in seconds."""

# ruff: noqa: E402 (megatron-core is imported once it can be)

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ml_models import registry
from ml_models.platforms import make_core_importable

make_core_importable()

from ml_train.bring_up import start_platform
from ml_train.checkpoint.manager import CheckpointManager
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.config.sections.parallel import ParallelSection
from ml_train.parallel.groups import process_groups
from ml_train.parallel.layout import World, make_layout
from ml_train.training.callbacks.signals import SignalCallback


def main() -> None:
    world = World.from_environment(os.environ)
    parallel = ParallelSection(
        tensor_model_parallel_size=2,
        expert_model_parallel_size=2,
        expert_tensor_parallel_size=1,
        distributed_timeout_minutes=1.25,
    )
    layout = make_layout(
        parallel,
        registry.get("grok1-tiny"),
        world_size=world.size,
        micro_batch_size=1,
        global_batch_size=None,
    )
    platform = start_platform("cpu", local_rank=world.local_rank)
    with platform.context(), process_groups(layout, world, platform, parallel, seed=1):
        CheckpointManager(CheckpointSection(), timeout=parallel.timeout)
        signals = SignalCallback(limit_seconds=60, timeout=parallel.timeout)
        signals.on_train_start(None)  # type: ignore[arg-type]
        timeouts: dict[str, Any] = {}
        for group, (backend, _) in dist.distributed_c10d._world.pg_map.items():
            options = group._get_backend(torch.device("cpu")).options
            name = f"{group.group_name} {group.group_desc} {backend}"
            timeouts[name] = options._timeout.total_seconds()
        signals.on_train_end(None)  # type: ignore[arg-type]
        everywhere: list[Any] = [None] * world.size
        dist.all_gather_object(everywhere, timeouts)
        if world.rank == 0:
            merged = {name: value for part in everywhere for name, value in part.items()}
            Path(sys.argv[1]).write_text(json.dumps(merged), encoding="utf-8")


if __name__ == "__main__":
    main()
