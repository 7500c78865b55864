"""Lines of code that wait for a device, told from other lines that stand."""

import _thread
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ml_train.health.hangs.stack import Position, position_of

SECONDS = 1.0


class Blocking:
    """Stands in C code under any name, as a tensor's methods do while its device computes."""

    tolist = masked_select = synchronize = read = staticmethod(time.sleep)


def stands_at(function: Callable[[], Any]) -> Position:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    time.sleep(0.3)
    position = position_of(thread.ident or 0)
    thread.join()
    return position


def reads_a_list() -> None:
    counts = Blocking()
    counts.tolist(SECONDS)


def selects_in_two_lines() -> None:
    torch = Blocking()
    torch.masked_select(
        SECONDS,
    )


def waits_for_an_event() -> None:
    event = Blocking()
    [1, 2].index(1) or event.synchronize(SECONDS)


@pytest.mark.parametrize("function", [reads_a_list, selects_in_two_lines, waits_for_an_event])
def test_the_host_waits_for_its_device(function: Callable[[], Any]) -> None:
    position = stands_at(function)
    assert position.waits and position.for_device
    assert position.text.endswith(" (for its device)")
    assert f"in {function.__name__}" in position.text


def reads_a_file() -> None:
    # A tensor is in the line, but the call that stands is another.
    counts = torch.zeros(1)
    (counts.tolist(), Blocking().read(SECONDS))


def sleeps() -> None:
    if not time.sleep(SECONDS):
        pass


class Mapped:
    """Memory that is mapped from a file on a server that does not answer."""

    __getitem__ = staticmethod(time.sleep)


def reads_mapped_memory() -> None:
    tokens = Mapped()
    tokens[SECONDS]


KNOWS_EXPRESSIONS = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 tells the line that stands, not its call"
)


@pytest.mark.parametrize(
    "function",
    [pytest.param(reads_a_file, marks=KNOWS_EXPRESSIONS), sleeps, reads_mapped_memory],
)
def test_other_lines_do_not(function: Callable[[], Any]) -> None:
    position = stands_at(function)
    assert not position.waits and not position.for_device
    assert f"in {function.__name__}" in position.text


class Engine:
    """Autograd's: it stands in C++."""

    run_backward = staticmethod(time.sleep)


def _engine_run_backward(t_outputs: tuple[torch.Tensor, ...]) -> None:
    """As torch.autograd.graph's, whose argument it has."""
    Engine.run_backward(SECONDS)


def test_the_backward_pass_of_a_device_is_where_its_threads_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pytest-xdist has threads that threading does not know either.
    frames, of_pytest = sys._current_frames, set(sys._current_frames())
    monkeypatch.setattr(
        sys,
        "_current_frames",
        lambda: {thread: at for thread, at in frames().items() if thread not in of_pytest},
    )
    loss = torch.ones((), device="meta")
    # threading does not know this thread, as it does not know those of C++.
    _thread.start_new_thread(reads_a_list, ())
    position = stands_at(lambda: _engine_run_backward((loss,)))
    assert position.for_device and "in reads_a_list" in position.text
    # Without such a frame autograd's thread is in C++.
    time.sleep(SECONDS)
    position = stands_at(lambda: _engine_run_backward((loss,)))
    assert position.for_device and "Engine.run_backward(SECONDS)" in position.text
    # The CPU's backward pass is run by the thread that asks for it.
    assert not stands_at(lambda: _engine_run_backward((torch.ones(()),))).waits


def test_torch_names_the_losses_as_this_module_expects() -> None:
    from torch.autograd import graph

    code = graph._engine_run_backward.__code__
    assert code.co_varnames[0] == "t_outputs" and "run_backward" in code.co_names
