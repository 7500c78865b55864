"""The address at which nodes meet: checked before torch waits a quarter of an hour for it."""

import argparse
import contextlib
import errno
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ml_train.errors import ConfigError, StartError
from ml_train.launch.signals import workers

_RESOLVED_WITHIN_SECONDS = 20.0
"""A cluster's name service may learn of node 0 a little later than this node starts."""
_PATIENCE_SECONDS = 10.0
"""A node says that it waits once it has waited for so long; node 0 for twice as long."""
_REMIND_SECONDS = 60.0
_STATIC_PORT, _C10D_PORT = 29500, 29400
"""torchrun's defaults for the two ways in which nodes meet."""


@dataclass(frozen=True, kw_only=True)
class MeetingPoint:
    """Where nodes meet, by torchrun's flags."""

    host: str
    port: int
    host_flag: str
    port_flag: str
    num_nodes: int
    """The least number of nodes."""
    node_rank: int | None
    """None where nodes number themselves."""


def meeting_point(flags: argparse.Namespace) -> MeetingPoint | None:
    """The meeting point of torchrun's parsed flags. Raises ConfigError.

    None for a single node, which meets itself at a port that torch chooses.
    """
    if flags.standalone:
        return None
    num_nodes, most = _num_nodes(flags.nnodes)
    static = flags.rdzv_backend == "static"
    if static and not flags.rdzv_endpoint:
        if flags.master_port is None and most == 1:
            return None
        host, port = flags.master_addr, flags.master_port or _STATIC_PORT
        names = "--master-addr", "--master-port"
        if flags.master_port == 0:
            raise ConfigError(
                "--master-port is 0, where nodes would never meet. Give a free port, the same on "
                "each node, or leave the flag out on a single node."
            )
    else:
        if not flags.rdzv_endpoint:
            return None
        host, port = _endpoint(flags.rdzv_endpoint, _STATIC_PORT if static else _C10D_PORT)
        names = "--rdzv-endpoint", "--rdzv-endpoint"
    if not 0 <= port < 65536:
        raise ConfigError(f"{names[1]}: port {port}; rule: from 1 to 65535.")
    return MeetingPoint(
        host=host,
        port=port,
        host_flag=names[0],
        port_flag=names[1],
        num_nodes=num_nodes,
        node_rank=int(flags.node_rank) if static else None,
    )


def check(flags: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Check that this node can meet the others. Raises ConfigError or StartError, in a sentence."""
    point = meeting_point(flags)
    if point is None:
        return
    if point.num_nodes > 1 and is_own_machine(point.host):
        raise ConfigError(
            f"{point.host_flag} {point.host} with --nnodes {flags.nnodes}: that name is this "
            f"machine itself, on each node another. Give node 0's name or address, the same on "
            "each node."
        )
    if point.node_rank is not None and point.node_rank >= point.num_nodes:
        raise ConfigError(
            f"--node-rank is {point.node_rank} with --nnodes {flags.nnodes}; rule: it counts from "
            "0."
        )
    _resolve(point, say)
    if point.node_rank == 0 and point.port:
        must_be_free(point.port, point.port_flag)
    elif point.node_rank:
        _wait_for_node_0(point, _timeout(flags), say)


@contextlib.contextmanager
def patience(flags: argparse.Namespace, say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block node 0 says that it waits for other nodes, until its processes start."""
    point = meeting_point(flags)
    done = threading.Event()
    if point is not None and point.num_nodes > 1 and point.node_rank == 0:
        threading.Thread(target=_say_waiting, args=(point, done, say), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def is_own_machine(host: str) -> bool:
    """Whether a host is localhost or an address that stands for it."""
    if host.lower().rstrip(".") in ("localhost", "localhost.localdomain", "ip6-localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _resolve(point: MeetingPoint, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _RESOLVED_WITHIN_SECONDS
    told = False
    while True:
        try:
            socket.getaddrinfo(point.host, point.port)
            return
        except (OSError, UnicodeError) as error:
            # A name that is no host name, such as a very long one, is a UnicodeError.
            reason = getattr(error, "strerror", None) or str(error)
        if time.monotonic() > deadline:
            raise StartError(
                f"{point.host_flag} {point.host} cannot be resolved on this node ({reason}). Give "
                "node 0's name as this node knows it, or its address."
            )
        if not told:
            say(
                f"launch: {point.host_flag} {point.host} cannot be resolved ({reason}); trying for "
                f"{_RESOLVED_WITHIN_SECONDS:g} s"
            )
            told = True
        time.sleep(1)


def must_be_free(port: int, name: str) -> None:
    """Raise StartError unless node 0 can listen at `port`, which `name` gave."""
    # Both families: torch's store listens on IPv6 where there is IPv6, and on IPv4 otherwise.
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                what = "is in use" if error.errno == errno.EADDRINUSE else "may not be used"
                raise StartError(
                    f"{name}: port {port} {what} on this machine ({socket.gethostname()}), perhaps "
                    "by another run. Give a free one, the same on each node; on a single node "
                    "leave it out and a free one is taken."
                ) from error


def _wait_for_node_0(point: MeetingPoint, seconds: float, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    remind = started + _PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection((point.host, point.port), timeout=5).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        now = time.monotonic()
        where = f"{point.host}:{point.port}"
        if now - started > seconds:
            raise StartError(
                f"node 0 did not answer at {where} within {seconds:g} s ({reason}). Start it with "
                f"the same {point.host_flag} and {point.port_flag} as this node."
            )
        if now > remind:
            say(
                f"launch: node {point.node_rank} gets no answer from node 0 at {where} ({reason}). "
                f"Is it started, with the same {point.host_flag} and {point.port_flag}?"
            )
            remind = now + _REMIND_SECONDS
        time.sleep(0.5)


def _say_waiting(point: MeetingPoint, done: threading.Event, say: Callable[[str], None]) -> None:
    wait = 2 * _PATIENCE_SECONDS
    while not done.wait(wait) and not workers():
        say(
            f"launch: node 0 waits at {point.host}:{point.port} for {point.num_nodes - 1} more "
            f"nodes. Each is started with the same {point.host_flag} and {point.port_flag}"
        )
        wait = _REMIND_SECONDS


def _num_nodes(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        numbers = int(least), int(most or least)
    except ValueError as error:
        raise ConfigError(
            f"--nnodes is {text!r}; rule: a number, or LEAST:MOST, for example 2 or 1:4."
        ) from error
    if not 0 < numbers[0] <= numbers[1]:
        raise ConfigError(f"--nnodes is {text!r}; rule: 1 or more, the least before the most.")
    return numbers


def _endpoint(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or (host.startswith("[") != host.endswith("]")):
        return text, default_port
    if not port.isdecimal():
        raise ConfigError(f"--rdzv-endpoint is {text!r}; rule: HOST:PORT.")
    return host.strip("[]"), int(port)


def _timeout(flags: argparse.Namespace) -> float:
    """torchrun's own for the rendezvous: --rdzv-conf timeout=SECONDS."""
    for pair in (flags.rdzv_conf or "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == "timeout" and value.strip().isdecimal():
            return float(value)
    return 900.0
