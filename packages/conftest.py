"""What holds for the tests of all packages."""

import signal
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Files that take longest, the longest of a package first: several processes, whole runs, timeouts
# of hangs. A session lasts until its last file ends, so that these begin first.
LONGEST = (
    "ml-models/tests/grok1/release/test_sink.py",
    "ml-models/tests/test_add_a_platform.py",
    "ml-models/tests/platforms/test_cpu.py",
    "ml-models/tests/grok1/test_layouts.py",
    "ml-models/tests/conversion/test_killed.py",
    "ml-models/tests/conversion/test_convert.py",
    "ml-models/tests/formats/megatron/test_stock.py",
    "ml-models/tests/formats/megatron_ranks/test_source.py",
    "ml-train/tests/health/hangs/test_hangs.py",
    "ml-train/tests/checkpoint/test_on_two_processes.py",
    "ml-train/tests/planning/test_rank_plan.py",
    "ml-train/tests/diagnosis/test_verify_upgrade.py",
    "ml-train/tests/invariance/test_invariance.py",
    "ml-train/tests/data/test_index_build.py",
    "ml-train/tests/checkpoint/test_requeue.py",
    "ml-train/tests/training/test_per_token_loss.py",
    "ml-train/tests/diagnosis/test_verify_layouts.py",
    "ml-train/tests/training/test_device.py",
)


def pytest_configure() -> None:
    """Let Ctrl-C and SIGHUP count in the tests' processes.

    A script that starts a command behind `&` has it ignore SIGINT, nohup has it ignore SIGHUP, and
    the processes that it starts inherit this.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in defaults.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of LONGEST in front; the order is as collected otherwise."""
    ranks = {HERE / name: rank for rank, name in enumerate(LONGEST)}
    assert all(file.is_file() for file in ranks), "a file of LONGEST has moved"
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
