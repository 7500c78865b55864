"""Helpers beside the tests are importable by name."""

import sys
from pathlib import Path

import pytest

from ml_models.platforms import make_core_importable

sys.path.insert(0, str(Path(__file__).parent))
# Tests import megatron-core at their top, where an entry point would have asked for a platform.
make_core_importable()


@pytest.fixture
def resumed_run(tmp_path: Path) -> Path:
    """The folder of a run that was killed after step 34 and resumed from the one after step 30."""
    from fake_run import write_run

    write_run(tmp_path / "metrics.jsonl", range(1, 35), range(31, 61))
    return tmp_path
