"""Fixtures: this process as a process group of one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def alone() -> Iterator[None]:
    """Megatron-core's process groups with one process, for the time of a test."""
    from model_checks.process import leave, start_alone

    start_alone()
    yield
    leave()


@pytest.fixture(scope="session")
def group4():
    """Four processes on the CPU."""
    from model_checks.group import Group

    group = Group(4)
    yield group
    group.stop()
