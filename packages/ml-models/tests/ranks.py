"""Start a script once per rank, as torchrun would, and collect what the ranks print."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
