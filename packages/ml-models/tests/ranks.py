"""Start a script once per rank, as torchrun would, and collect what the ranks print."""

import contextlib
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

# Below the ports that systems hand out by themselves (32768 and up on Linux, 49152 elsewhere).
PORTS = range(15_000, 30_000)


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
    """stdout of every rank. A rank that fails fails the test with its stderr."""
    environment = {
        **os.environ,
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        results = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    faults = [
        f"rank {rank}: exit {process.returncode}\n{error[-2000:]}"
        for rank, (process, (_, error)) in enumerate(zip(processes, results, strict=True))
        if process.returncode
    ]
    assert not faults, "\n".join(faults)
    return [output for output, _ in results]
