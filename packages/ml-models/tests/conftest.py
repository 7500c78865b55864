"""Fixtures: this process as a process group of one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def alone() -> None:
    """Megatron-core's process groups with one process."""
    from model_checks.process import start_alone

    start_alone()


@pytest.fixture(scope="session")
def group4():
    """Four processes on the CPU."""
    from model_checks.group import Group

    group = Group(4)
    yield group
    group.stop()
