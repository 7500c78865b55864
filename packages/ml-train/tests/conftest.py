"""Helpers beside the tests are importable by name."""

import sys
from pathlib import Path

import pytest

from ml_models.platforms import make_core_importable

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# Tests import megatron-core at their top, where an entry point would have asked for a platform.
make_core_importable()

# Files that take longest, the longest first: several processes, whole runs, timeouts of hangs.
# A session lasts until its last file ends, so that these begin first.
LONGEST = (
    "health/hangs/test_hangs.py",
    "checkpoint/test_on_two_processes.py",
    "planning/test_rank_plan.py",
    "diagnosis/test_verify_upgrade.py",
    "invariance/test_invariance.py",
    "data/test_index_build.py",
    "checkpoint/test_requeue.py",
    "training/test_per_token_loss.py",
    "diagnosis/test_verify_layouts.py",
    "training/test_device.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of LONGEST in front; the order is as collected otherwise."""
    ranks = {HERE / name: rank for rank, name in enumerate(LONGEST)}
    assert all(file.is_file() for file in ranks), "a file of LONGEST has moved"
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture
def resumed_run(tmp_path: Path) -> Path:
    """The folder of a run that was killed after step 34 and resumed from the one after step 30."""
    from fake_run import write_run

    write_run(tmp_path / "metrics.jsonl", range(1, 35), range(31, 61))
    return tmp_path
