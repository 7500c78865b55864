"""A group of processes that stays up and runs one check after another.

Starting a process costs seconds of imports, so the default suite starts one group of four and lets
each check remake megatron-core's process groups for its layout.
"""

import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

from ranks import fork_context

TIMEOUT_SECONDS = 180


class Group:
    """`run(function, *arguments)` calls function in every process and returns their results."""

    def __init__(self, world_size: int) -> None:
        context = fork_context()
        folder = tempfile.mkdtemp()
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(world_size):
            own_end, worker_end = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world_size, folder, worker_end), daemon=True
            )
            process.start()
            self.pipes.append(own_end)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in self.pipes:
            pipe.send((function, arguments))
        results: dict[int, Any] = {}
        deadline = monotonic() + TIMEOUT_SECONDS
        while len(results) < len(self.pipes):
            pending = [pipe for i, pipe in enumerate(self.pipes) if i not in results]
            ready = wait(pending, timeout=deadline - monotonic())
            if not ready:
                self.stop()
                raise TimeoutError(f"{function.__name__}{arguments}: no answer in time")
            for pipe in ready:
                rank = self.pipes.index(pipe)
                good, value = pipe.recv()
                if not good:
                    self.stop()
                    raise RuntimeError(f"rank {rank}: {value}")
                results[rank] = value
        return [results[rank] for rank in range(len(self.pipes))]

    def stop(self) -> None:
        """Let the processes end, as some have children that they end on their way out."""
        for pipe in self.pipes:
            pipe.close()
        deadline = monotonic() + 5
        for process in self.processes:
            process.join(max(0.0, deadline - monotonic()))
            process.terminate()
            process.join(10)


def _serve(rank: int, world_size: int, folder: str, pipe: Connection) -> None:
    from model_checks.process import start

    start(rank, world_size, folder)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(*arguments)))
        except Exception:  # noqa: BLE001 - whatever it is, the parent shows it
            pipe.send((False, traceback.format_exc()))
