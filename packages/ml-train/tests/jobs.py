"""Start a script on several processes, and want it to end well."""

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
