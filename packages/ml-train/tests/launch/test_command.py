"""What is left on the screen, and which exit code, when a launched job fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In one write: print makes several, between which the other process may speak.
SAYS = "import os, sys; sys.stderr.write(f'said by {os.environ[\"RANK\"]}\\n'); "


def launch(tmp_path: Path, job: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "job.py"
    script.write_text(job)
    command = [sys.executable, "-m", "ml_train.launch", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(script)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("end", "code", "how"),
    [
        ("sys.exit(2)", 2, "with exit code 2"),
        ("os.kill(os.getpid(), 9)", 137, "with signal 9"),
    ],
)
def test_a_failed_job_ends_with_its_own_words(
    tmp_path: Path, end: str, code: int, how: str
) -> None:
    job = SAYS + f"{end} if os.environ['RANK'] == '1' else __import__('time').sleep(60)"
    done = launch(tmp_path, job)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "said by 1" in done.stderr
    assert done.stderr.splitlines()[-1] == f"launch: rank 1 failed first, {how}"


def test_a_job_that_ends_well(tmp_path: Path) -> None:
    done = launch(tmp_path, SAYS)
    assert done.returncode == 0
    assert "launch:" not in done.stderr
