"""Fixtures: this process as a process group of one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_models.platforms import make_core_importable

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# Tests import megatron-core at their top, where an entry point would have asked for a platform.
make_core_importable()

# Files that take longest, the longest first. A session lasts until its last file ends, so that
# these begin first.
LONGEST = (
    "grok1/release/test_sink.py",
    "test_add_a_platform.py",
    "platforms/test_cpu.py",
    "grok1/test_layouts.py",
    "conversion/test_killed.py",
    "conversion/test_convert.py",
    "formats/megatron/test_stock.py",
    "formats/megatron_ranks/test_source.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of LONGEST in front; the order is as collected otherwise."""
    ranks = {HERE / name: rank for rank, name in enumerate(LONGEST)}
    assert all(file.is_file() for file in ranks), "a file of LONGEST has moved"
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


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
