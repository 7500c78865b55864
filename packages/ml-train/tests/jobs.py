"""Processes that tests start: a script on several ranks, and a command that refuses its flags."""

import os
import subprocess
import sys
from pathlib import Path


def run_job(script: Path, *arguments: object, processes: int, timeout: int) -> None:
    """torchrun SCRIPT ARGUMENTS, one thread a process; what it said is shown where it failed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(script), *map(str, arguments)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def refused_before_torch(*arguments: str, command: str = "pretrain") -> str:
    """What an ml-train command says of arguments that it refuses as bad usage, without torch."""
    code = (
        "import sys\n"
        "from ml_train.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "2 False", done.stdout + done.stderr
    return done.stderr
