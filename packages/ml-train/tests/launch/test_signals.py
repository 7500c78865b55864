"""Signals to the launcher, and its death, with jobs that say what reached them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from ports import free_port

JOB = """
import os, signal, sys, time
from pathlib import Path

here, rank = Path(sys.argv[1]), os.environ["RANK"]
seconds, code = float(sys.argv[2]), int(sys.argv[3])

def stop(number, frame):
    (here / f"got{rank}").write_text(str(number))
    time.sleep(seconds)
    (here / f"saved{rank}").touch()
    sys.exit(code)

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, stop)
if len(sys.argv) > 4:
    from ml_train.launch.launcher_watch import end_with_launcher
    end_with_launcher()
(here / f"pid{rank}").write_text(str(os.getpid()))
(here / f"here{rank}").touch()
time.sleep(100)
"""


@contextmanager
def launched(
    folder: Path, *words: str, flags: tuple[str, ...] = (), before: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """The job on two processes; `before` runs in the launcher's process first."""
    script = folder / "job.py"
    script.write_text(JOB)
    code = f"import signal; {before}\nfrom ml_train.launch import main\nraise SystemExit(main())"
    command = [sys.executable, "-c", code, "--standalone", "--nproc-per-node", "2", *flags]
    process = subprocess.Popen(
        [*command, str(script), str(folder), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)
        for path in folder.glob("pid*"):
            with_number = int(path.read_text() or 0)
            if psutil.pid_exists(with_number):
                os.kill(with_number, signal.SIGKILL)


def until(folder: Path, *names: str) -> None:
    deadline = time.monotonic() + 90
    while not all((folder / name).exists() for name in names):
        assert time.monotonic() < deadline, sorted(path.name for path in folder.iterdir())
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "rank_code", "wanted"),
    [
        (signal.SIGTERM, 0, 0),
        (signal.SIGINT, 130, 130),
        pytest.param(signal.SIGTERM, 143, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 0, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, 129, marks=pytest.mark.slow),
    ],
)
def test_the_launcher_waits_for_its_ranks_and_has_their_code(
    number: signal.Signals, rank_code: int, wanted: int, tmp_path: Path
) -> None:
    # --max-restarts: what was told to end is not started again.
    with launched(tmp_path, "1.5", str(rank_code), flags=("--max-restarts", "2")) as process:
        until(tmp_path, "here0", "here1")
        process.send_signal(number)
        _, log = process.communicate(timeout=60)
        assert process.returncode == wanted, log
    assert (tmp_path / "got0").read_text() == (tmp_path / "got1").read_text() == str(int(number))
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert log.strip() == ""


def listening() -> list[Any]:
    """TCP sockets of this machine; psutil 5.9 cannot ask for those of one process by this name."""
    return psutil.net_connections("tcp")


def test_a_signal_before_there_are_ranks(tmp_path: Path) -> None:
    """Node 0 of two waits for the other one, in torch's native code."""
    code = "from ml_train.launch import main; raise SystemExit(main())"
    port = free_port()
    words = ["--nnodes", "2", "--node-rank", "0", "--master-addr", socket.gethostname()]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--master-port", str(port), str(tmp_path / "job.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(c.laddr.port == port and c.pid == process.pid for c in listening()):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 143, log
        assert "SIGTERM: ended before the processes were started" in log
        assert "Traceback" not in log
    finally:
        process.kill()
        process.wait(timeout=10)


@pytest.mark.slow
def test_nohup_is_kept(tmp_path: Path) -> None:
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with launched(tmp_path, "0", "0", before=ignore) as process:
        until(tmp_path, "here0", "here1")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None and not (tmp_path / "got0").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_the_launchers_death_ends_the_ranks_in_order(tmp_path: Path) -> None:
    with launched(tmp_path, "0.2", "0", "watch") as process:
        until(tmp_path, "here0", "here1")
        process.kill()
        until(tmp_path, "saved0", "saved1")
        assert (tmp_path / "got0").read_text() == str(int(signal.SIGTERM))
        pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in (0, 1)]
        psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=20)
        assert not any(psutil.pid_exists(pid) for pid in pids)
