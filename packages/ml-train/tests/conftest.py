"""Helpers beside the tests are importable by name."""

import signal
import sys
from pathlib import Path

import pytest

from ml_models.platforms import make_core_importable

sys.path.insert(0, str(Path(__file__).parent))
# Tests import megatron-core at their top, where an entry point would have asked for a platform.
make_core_importable()


def pytest_configure() -> None:
    """Let Ctrl-C and SIGHUP count in the tests' processes.

    A script that starts a command behind `&` has it ignore SIGINT, nohup has it ignore SIGHUP, and
    the processes that it starts inherit this.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in defaults.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture
def resumed_run(tmp_path: Path) -> Path:
    """The folder of a run that was killed after step 34 and resumed from the one after step 30."""
    from fake_run import write_run

    write_run(tmp_path / "metrics.jsonl", range(1, 35), range(31, 61))
    return tmp_path
