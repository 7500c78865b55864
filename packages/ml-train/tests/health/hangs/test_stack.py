"""Where a thread stands, and the words of a report."""

import functools
import threading
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ml_models.process_groups import destroy_process_groups
from ml_train.health.hangs.hang_report import RankState, compose
from ml_train.health.hangs.stack import position_of, position_of_error


@pytest.fixture
def alone() -> Any:
    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    destroy_process_groups()


def looked_at(function: Any) -> Any:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    time.sleep(0.3)
    first, second = position_of(thread.ident or 0), position_of(thread.ident or 0)
    assert first == second
    return first


def test_a_collective_its_group_and_its_caller(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # As torch's: wait is no Python function.
    work = type("Work", (), {"wait": functools.partial(time.sleep, 1.5)})
    group = dist.new_group([0], group_desc="MY_GROUP")
    monkeypatch.setattr(type(group), "allreduce", lambda *_: work())
    position = looked_at(lambda: dist.all_reduce(torch.zeros(1), group=group))
    assert position.waits and (position.group, position.ranks) == ("MY_GROUP", (0,))
    assert position.text.startswith("all_reduce number ")
    assert " of MY_GROUP (ranks 0), called at " in position.text
    assert "test_stack.py:" in position.text


class Request:
    wait = staticmethod(time.sleep)


def test_a_request_and_a_line_of_code() -> None:
    def waits() -> None:
        Request.wait(1.5)

    def stands() -> None:
        time.sleep(1.5)

    position = looked_at(waits)
    assert position.waits and position.text.endswith("in waits: Request.wait(1.5)")
    position = looked_at(stands)
    assert not position.waits and position.text.endswith("in stands: time.sleep(1.5)")


def test_an_error_of_a_collective_is_told_from_others(alone: Any) -> None:
    try:
        dist.all_reduce(torch.zeros(1), op="no such operation")  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - whatever torch makes of it
        assert position_of_error(error).waits
    try:
        raise RuntimeError("shapes differ")
    except RuntimeError as error:
        assert not position_of_error(error).waits


def sign(step: int, **changes: Any) -> dict[str, Any]:
    values = {"host": "h", "pid": 7, "step": step, "text": "all_reduce of TP (ranks 0, 1)"}
    return {**values, "waits": True, "group": "TP", "ranks": [0, 1], "seconds": 3.0, **changes}


def test_the_report() -> None:
    elsewhere = {"waits": False, "group": None, "ranks": [], "text": "a.py:3 in f: read()"}
    states = [
        RankState(rank=0, alive=True, sign=sign(4)),
        RankState(rank=1, alive=False, sign=sign(3)),
        RankState(rank=2, alive=True, sign=sign(4, **elsewhere)),
        RankState(rank=3, alive=False, sign=None),
    ]
    assert compose("why", states).splitlines() == [
        "ml-train: hang report: why",
        "Ranks 1, 3 are missing. Rank 2 is alive and in no collective.",
        "  rank 0 (h, pid 7, step 4): waits in all_reduce of TP (ranks 0, 1), for 3.0 s",
        "  rank 1 (h, pid 7, step 3): MISSING, no sign of life any more; was last at all_reduce "
        "of TP (ranks 0, 1)",
        "  rank 2 (h, pid 7, step 4): stands at a.py:3 in f: read(), for 3.0 s",
        "  rank 3: MISSING, never seen",
        "  TP (ranks 0, 1): rank 0 waits for rank 1",
    ]
    assert "No rank is missing." in compose("why", states[:1])
