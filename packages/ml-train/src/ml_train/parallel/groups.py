"""Process groups of a layout: torch.distributed, then megatron-core's, all with one timeout."""

import contextlib
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from ml_models.megatron_core import differences
from ml_models.process_groups import backends_outlive_groups
from ml_train.config.sections.parallel import ParallelSection
from ml_train.errors import ConfigError, StartError
from ml_train.launch.meeting_point import must_be_free
from ml_train.parallel.agreement import agree
from ml_train.parallel.layout import Layout, World

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform

_POLL_SECONDS = 0.02


@contextlib.contextmanager
def process_groups(
    layout: Layout,
    world: World,
    platform: "Platform",
    parallel: ParallelSection,
    *,
    seed: int,
    facts: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """Set up, seed every generator, and take down again. Inside the platform's context.

    facts: what all ranks agree on before a group is made, see parallel/agreement.py.
    Gives the name of this start of the job, the same on all ranks and never used before.
    Raises ConfigError and StartError.
    """
    check_backend(platform, parallel)
    store = _meet(world, parallel.timeout)
    start = agree_on_start(store, world, parallel.timeout)
    agree(facts, store=store, world=world, timeout=parallel.timeout, start=start)
    dist.init_process_group(
        platform.backend,
        timeout=parallel.timeout,
        rank=world.rank,
        world_size=world.size,
        store=PrefixStore(start, store),
    )
    try:
        model_parallel_groups(layout, platform, parallel.distributed_timeout_minutes)
        _same_timeout_everywhere(parallel.timeout)
        # The same seed on all ranks; megatron-core adds the TP and EP rank for its own regions.
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        model_parallel_cuda_manual_seed(seed)
        yield start
    finally:
        # megatron-core destroys some of its groups itself.
        with backends_outlive_groups():
            end_model_parallel()
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def check_backend(platform: "Platform | type[Platform]", parallel: ParallelSection) -> None:
    """Refuse --distributed-backend where the platform has another. Raises ConfigError."""
    # A plug-in may be older than the attribute.
    names = (platform.backend, *getattr(platform, "backend_aliases", ()))
    if parallel.distributed_backend not in (None, *names):
        raise ConfigError(
            f"--distributed-backend is {parallel.distributed_backend}, but the platform "
            f"{platform.name} communicates through {platform.backend}. Drop the flag."
        )


def model_parallel_groups(
    layout: Layout, platform: "Platform", timeout_minutes: float = 30.0
) -> None:
    """megatron-core's groups of `layout`, over torch's process group of all ranks. Collective."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vp if layout.vp > 1 else None,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp,
        # The annotation is int; megatron-core makes a timedelta of it, which takes a float.
        distributed_timeout_minutes=timeout_minutes,  # type: ignore[arg-type,unused-ignore]
        order="tp-cp-ep-dp-pp",
        create_gloo_process_groups=platform.needs_gloo_groups,
    )


def end_model_parallel() -> None:
    """Forget megatron-core's groups and what else it keeps for the process of a model."""
    parallel_state.destroy_model_parallel()
    differences.forget_embedding_ranks()
    differences.forget_router_losses()


def _meet(world: World, timeout: timedelta) -> Store:
    """The key-value store of the job. Raises ConfigError and StartError."""
    point = _meeting_point(world)
    try:
        store, _, _ = next(rendezvous(point, world.rank, world.size, timeout=timeout))
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise StartError(
            f"The processes cannot meet at {address} (MASTER_ADDR, MASTER_PORT): "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return store


def agree_on_start(store: Store, world: World, timeout: timedelta) -> str:
    """A name for this start of the job, from rank 0 to all. Collective over the store alone.

    torchrun keeps a key-value store over all restarts of a job, and torch uses the same keys at
    each restart. A rank that reads the address of a process of an earlier start waits for it in
    vain. With the name of the start in front, torch's keys are new. torchrun's count of restarts
    cannot be the name, as it differs between nodes.

    The store may also hold answers of an earlier start. So each rank asks with a random word
    (hello/RANK) and takes the answer to that word alone (welcome/WORD).
    """
    deadline = time.monotonic() + timeout.total_seconds()
    word = uuid.uuid4().hex
    if world.rank:
        store.set(f"ml_train/hello/{world.rank}", word)
        try:
            start = store.get(f"ml_train/welcome/{word}").decode()
        except RuntimeError as error:
            raise StartError(
                f"Rank {world.rank} got no answer from rank 0 within {timeout.total_seconds():g} s "
                "(--distributed-timeout-minutes)."
            ) from error
        store.add(f"ml_train/here/{start}", 1)
        return start
    # Rank 0 gives its own word as the name. A rank's word may be an earlier start's at first and
    # change later, so every new word is answered until all ranks have counted themselves in.
    answered: dict[int, bytes] = {}
    while store.add(f"ml_train/here/{word}", 0) < world.size - 1:
        for rank in range(1, world.size):
            key = f"ml_train/hello/{rank}"
            question = store.get(key) if store.check([key]) else b""
            if question and answered.get(rank) != question:
                answered[rank] = question
                store.set(f"ml_train/welcome/{question.decode()}", word)
        if time.monotonic() > deadline:
            raise StartError(
                f"Not all of the {world.size} processes came within {timeout.total_seconds():g} s "
                f"(--distributed-timeout-minutes); {store.add(f'ml_train/here/{word}', 0) + 1} did."
            )
        time.sleep(_POLL_SECONDS)
    return word


def _same_timeout_everywhere(timeout: timedelta) -> None:
    """megatron-core makes its gloo groups of expert-data ranks with torch's own 30 minutes."""
    # torch 2.14 has a public name for it and calls the private one deprecated; 2.6 has that alone.
    set_timeout = getattr(dist, "set_timeout", None) or distributed_c10d._set_pg_timeout
    for group, (backend, _) in distributed_c10d._world.pg_map.items():
        if "gloo" in backend or "nccl" in backend:
            set_timeout(timeout, group)


def host_group(timeout: timedelta, description: str) -> dist.ProcessGroup:
    """A gloo group of all ranks for agreements between hosts. Collective."""
    return dist.new_group(backend="gloo", timeout=timeout, group_desc=description)


def _meeting_point(world: World) -> str:
    """torch's URL of the place where the processes meet. Raises ConfigError and StartError."""
    if os.environ.get("MASTER_PORT") == "0":
        raise ConfigError(
            "MASTER_PORT is 0, where processes would wait for each other for ever. Give torchrun "
            "--standalone, or a free --master-port."
        )
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        host = os.environ["MASTER_ADDR"]
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError) as error:
            raise StartError(
                f"MASTER_ADDR is {host!r}, which cannot be resolved here ({error}). Give node 0's "
                "name as this node knows it, or its address."
            ) from error
        port = os.environ["MASTER_PORT"]
        # Under torchrun the launcher listens there already.
        listens = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        if listens and port.isdecimal():
            must_be_free(int(port), "MASTER_PORT")
        return "env://"
    if world.size > 1:
        raise ConfigError(
            f"WORLD_SIZE is {world.size}, but MASTER_ADDR and MASTER_PORT are not set. Start the "
            "run with torchrun."
        )
    # A process alone meets itself at a port that is free now.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
