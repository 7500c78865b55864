"""All ranks of a run hold the same facts: settings, model, versions, files.

Facts are compared through the key-value store, before any process group exists: ranks with other
layouts would make other groups and wait for each other for ever. Rank 0 puts its facts in the
store. Every other rank reads them, compares them with its own, and puts its facts in the store
only where they differ. Then every rank ends with the same sentence.
"""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict

from ml_train.errors import ConfigError, StartError
from ml_train.parallel.layout import World

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_MOST_DIFFERENCES = 6
"""Told of a node; a model of another name differs in most of its fields."""
_MOST_NODES = 4
_MOST_REPORTS = 256
_POLL_SECONDS = 0.02
_STORE_OUTLIVES_SECONDS = 30.0
"""How long rank 0 waits, before it ends, until the others have read the differences."""


class _Report(TypedDict):
    """Facts of a rank, as the store holds them."""

    node: int
    host: str
    facts: dict[str, str]


def agree(
    facts: Mapping[str, str], *, store: "Store", world: World, timeout: timedelta, start: str
) -> None:
    """Compare this rank's facts with rank 0's. Collective over the store alone.

    facts: what is compared -> its value in words. A fact that only rank 0 has is not compared: some
    are looked up by the first rank of each node alone. start: the name of this start of the job.
    Raises ConfigError on every rank when one differs, StartError when a rank does not take part.
    """
    if world.size == 1:
        return
    key = f"ml_train/facts/{start}"
    own: _Report = {"node": _node(world), "host": socket.gethostname(), "facts": dict(facts)}
    if world.rank == 0:
        store.set(key, json.dumps(own))
    try:
        first: _Report = json.loads(store.get(key))
    except RuntimeError as error:
        raise StartError(_late(timeout)) from error
    names = [name for name, value in facts.items() if first["facts"].get(name) != value]
    if names:
        number = store.add(f"{key}/differing", 1)
        differing = {name: facts[name] for name in names}
        store.set(f"{key}/differing/{number}", json.dumps({**own, "facts": differing}))
    store.add(f"{key}/compared", 1)
    if not _reached(store, f"{key}/compared", world.size, timeout.total_seconds()):
        raise StartError(_late(timeout))
    count = min(store.add(f"{key}/differing", 0), _MOST_REPORTS)
    reports = [json.loads(store.get(f"{key}/differing/{n}")) for n in range(1, count + 1)]
    if reports:
        store.add(f"{key}/told", 1)
        if world.rank == 0:
            # The store may live in this process: the others must have read it before it ends.
            _reached(store, f"{key}/told", world.size, _STORE_OUTLIVES_SECONDS)
        raise ConfigError(_sentence(first, reports))


def _reached(store: "Store", key: str, count: int, seconds: float) -> bool:
    """Wait until a counter of the store has reached `count`; False when it takes too long."""
    deadline = time.monotonic() + seconds
    while store.add(key, 0) < count:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _sentence(first: _Report, reports: Sequence[_Report]) -> str:
    # Of each node the report with the most facts: the sort puts it last.
    by_node: dict[int, _Report] = {}
    for report in sorted(reports, key=lambda report: (report["node"], len(report["facts"]))):
        by_node[report["node"]] = report
    parts = []
    for node, report in list(by_node.items())[:_MOST_NODES]:
        names = list(report["facts"])
        differences = [
            f"{name} is {report['facts'][name]}, not {first['facts'].get(name, 'absent')}"
            for name in names[:_MOST_DIFFERENCES]
        ]
        if len(names) > _MOST_DIFFERENCES:
            differences.append(f"{len(names) - _MOST_DIFFERENCES} more differ")
        nodes = f"Node {node} ({report['host']}) and node {first['node']} ({first['host']})"
        parts.append(f"{nodes} do not agree on the run: {'; '.join(differences)}.")
    if len(by_node) > _MOST_NODES:
        parts.append(f"{len(by_node) - _MOST_NODES} more nodes differ.")
    return f"{' '.join(parts)} Start every node with the same command, files and versions."


def _node(world: World) -> int:
    """Number of this process's node: torchrun's, or counted from the ranks of a node."""
    text = os.environ.get("GROUP_RANK", "")
    if text.isdecimal():
        return int(text)
    size = os.environ.get("LOCAL_WORLD_SIZE", "")
    return world.rank // int(size) if size.isdecimal() and int(size) else 0


def _late(timeout: timedelta) -> str:
    return (
        f"Not all ranks compared their settings with rank 0's within {timeout.total_seconds():g} s "
        "(--distributed-timeout-minutes)."
    )
