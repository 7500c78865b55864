"""Processes that tests start, as forks of one that has imported torch, and free ports for them."""

import contextlib
import multiprocessing
import os
import random
import runpy
import socket
import sys
import tempfile
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

# Below the ports that systems hand out by themselves (32768 and up on Linux, 49152 elsewhere).
PORTS = range(15_000, 30_000)
# Not megatron-core: a process imports it after it has applied a platform, as at an entry point.
_IMPORTED_ONCE = [
    "torch",
    "torch.distributed.checkpoint",
    "torch.distributed.tensor",
    "torch.utils.data",
    "torch._dynamo",
    "numpy",
    "safetensors.torch",
]


def fork_context() -> ForkServerContext:
    """Processes whose imports of torch, two seconds of CPU time, are made once per test process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED_ONCE)
    return context


def free_port() -> int:
    """A port that nothing uses now, and that the system gives to no other process.

    The processes of a test bind it seconds later. A port from the system's own range could by then
    belong to another process, and the test would wait for its timeout.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError(f"none of 100 ports between {PORTS.start} and {PORTS.stop} is free")


def run_ranks(script: Path, world: int, *arguments: object, timeout: float = 120) -> list[str]:
    """stdout of SCRIPT ARGUMENTS on every rank; a rank that fails fails the test with its stderr.

    The ranks have the environment that torchrun sets.
    """
    environment = {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    words = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            fork_context().Process(target=_run, args=(rank, words, environment, folder))
            for rank in range(world)
        ]
        deadline = time.monotonic() + timeout
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            codes = [process.exitcode for process in processes]
            for process in processes:
                process.kill()
                process.join()
        texts = [(Path(folder) / f"{rank}.out").read_text() for rank in range(world)]
        errors = [(Path(folder) / f"{rank}.err").read_text() for rank in range(world)]
    faults = [
        f"rank {rank}: exit {code}\n{error[-2000:]}"
        for rank, (code, error) in enumerate(zip(codes, errors, strict=True))
        if code != 0
    ]
    assert not faults, "\n".join(faults)
    return texts


def _run(rank: int, words: list[str], environment: dict[str, str], folder: str) -> None:
    """`python WORDS` as rank `rank`, in this process."""
    for number, name in ((1, "out"), (2, "err")):
        descriptor = os.open(f"{folder}/{rank}.{name}", os.O_CREAT | os.O_WRONLY)
        os.dup2(descriptor, number)
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")
