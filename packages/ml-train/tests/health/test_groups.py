"""Every process group of a run has the one timeout of --distributed-timeout-minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_every_group_has_the_same_timeout(tmp_path: Path) -> None:
    out = tmp_path / "groups.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(HERE / "groups_worker.py"), str(out)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    groups = json.loads(out.read_text(encoding="utf-8"))
    assert len(groups) > 15
    for description in ("TENSOR_MODEL_PARALLEL", "checkpoint writing", "signals", "default_pg"):
        assert any(description in name for name in groups), groups
    assert set(groups.values()) == {75.0}, groups
