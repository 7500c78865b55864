"""A process that can be recognised later, when its number may belong to another process."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_BOOT, _NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
_CLOCK_SECONDS = 2.0
"""How far two times of creation of a process may differ: psutil derives them from the clock, which
may be set in between."""


@dataclass(frozen=True, kw_only=True)
class ProcessMark:
    """What tells a process from every other."""

    host: str
    pid: int
    created: float
    """Seconds since 1970."""
    machine: str
    """Boot and process namespace: a process number is unique within these alone."""

    @staticmethod
    def of(pid: int) -> "ProcessMark":
        """The mark of a process that runs. Raises psutil.NoSuchProcess."""
        created = psutil.Process(pid).create_time()
        return ProcessMark(
            host=socket.gethostname(), pid=pid, created=created, machine=this_machine()
        )

    @staticmethod
    def read(values: Mapping[str, Any]) -> "ProcessMark":
        """From the JSON object that dataclasses.asdict gave.

        Raises KeyError, TypeError and ValueError for anything else.
        """
        return ProcessMark(
            host=str(values["host"]),
            pid=int(values["pid"]),
            created=float(values["created"]),
            machine=str(values["machine"]),
        )

    def runs(self) -> bool | None:
        """Whether the process runs; None on another machine. A zombie does not run."""
        if self.machine != this_machine():
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < _CLOCK_SECONDS
            return same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return False


def this_machine() -> str:
    """A name for the set of processes that this process can see."""
    try:
        return f"{_BOOT.read_text(encoding='ascii').strip()} {os.readlink(_NAMESPACE)}"
    except OSError:
        return socket.gethostname()
