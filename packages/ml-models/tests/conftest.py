"""Fixtures: this process as a process group of one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_models.platforms import make_core_importable

sys.path.insert(0, str(Path(__file__).parent))
# Tests import megatron-core at their top, where an entry point would have asked for a platform.
make_core_importable()


@pytest.fixture
def alone() -> Iterator[None]:
    """Megatron-core's process groups with one process, for the time of a test."""
    from model_checks.process import leave, start_alone

    start_alone()
    yield
    leave()


@pytest.fixture
def no_group() -> None:
    """No process group, for a test that makes its own; tests with `alone` leave theirs behind."""
    from model_checks.process import end_alone

    end_alone()


@pytest.fixture(scope="session")
def group4():
    """Four processes on the CPU."""
    from model_checks.group import Group

    group = Group(4)
    yield group
    group.stop()
