"""A port for the processes of a test."""

import contextlib
import random
import socket

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
