"""How much memory of a node the copies of a background save may take.

Without a bound the copies of eight ranks, about 280 GB for grok1-40b, end a node with less: the
kernel kills a rank, and the run with it.
"""

import os
from pathlib import Path

import psutil

SHARE = 0.8
"""Of what a node has to spare. The rest is for loaders, page cache and the other processes."""

_CGROUP = Path("/sys/fs/cgroup")


def room_of_process() -> int:
    """Bytes that this rank may take: the node's spare memory, divided by its ranks."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return int(spare_bytes() * SHARE) // max(int(ranks) if ranks.isdecimal() else 1, 1)


def spare_bytes(cgroup: Path = _CGROUP) -> int:
    """What the node, or the container that this process runs in, has to spare."""
    spare = psutil.virtual_memory().available
    try:
        limit, used = (
            (cgroup / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
    except OSError:
        return spare
    # The file says "max" where the container has no limit of its own.
    return min(spare, max(int(limit) - int(used), 0)) if limit.isdecimal() else spare
