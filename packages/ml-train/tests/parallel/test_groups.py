"""Every process group of a run has the one timeout of --distributed-timeout-minutes."""

import json
from pathlib import Path

from jobs import run_job

HERE = Path(__file__).parent


def test_every_group_has_the_same_timeout(tmp_path: Path) -> None:
    out = tmp_path / "groups.json"
    run_job(HERE / "groups_worker.py", out, processes=2, timeout=120)
    groups = json.loads(out.read_text(encoding="utf-8"))
    assert len(groups) > 15
    for description in ("TENSOR_MODEL_PARALLEL", "checkpoint writing", "signals", "default_pg"):
        assert any(description in name for name in groups), groups
    assert set(groups.values()) == {75.0}, groups
