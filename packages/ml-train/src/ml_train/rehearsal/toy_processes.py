"""A run that is killed in its middle, as the power of a node would end it."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from ml_train.diagnosis.runs import FailedRunError, command_of, reason_of_failure, variables

_LOOK_SECONDS = 0.05
LIMIT_SECONDS = 900
"""After this long without a checkpoint a run of toy width hangs."""


def run_and_kill(
    words: Sequence[str], num_processes: int, log: Path, *, until: Callable[[], bool]
) -> None:
    """Start ml-train pretrain and send SIGKILL to all its processes once `until` says so.

    Raises FailedRunError where the run ends before, or hangs.
    """
    with log.open("w", encoding="utf-8") as stream, _killed(words, num_processes, stream) as run:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not until():
            code = run.poll()
            if code is not None:
                raise FailedRunError(reason_of_failure(log, code), log)
            if time.monotonic() > deadline:
                raise FailedRunError(f"no step within {LIMIT_SECONDS} s: it hangs.", log)
            time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _killed(
    words: Sequence[str], num_processes: int, stream: object
) -> Iterator["subprocess.Popen[bytes]"]:
    """A run whose processes are killed at the end of the block, however that comes."""
    run = subprocess.Popen(
        command_of(words, num_processes),
        stdout=stream,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        env=variables(),
    )
    try:
        yield run
    finally:
        kill_tree(run.pid)
        run.wait()


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and to all that it has started, and wait until they are gone.

    torchrun gives each rank a session of its own, so that no process group has them all.
    """
    try:
        parent = psutil.Process(pid)
        processes = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes[:-1], timeout=30)
