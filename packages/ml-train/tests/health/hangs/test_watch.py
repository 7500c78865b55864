"""The watch over a rank, with stores of this process in place of the job's."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ml_train.health.hangs import watch as module
from ml_train.health.hangs.stack import Position, position_of_error
from ml_train.health.hangs.watch import Watch
from ml_train.parallel.layout import World


class Watched(Watch):
    def __init__(self, folder: Path, store: Any):
        world = World(rank=0, size=3, local_rank=0)
        super().__init__(world, "start", timeout=2.0, folder=folder)
        self._given = store

    def _connect(self) -> Any:
        return self._given


@pytest.fixture
def store() -> Any:
    return torch._C._distributed_c10d.HashStore()


def beat(watch: Watch, store: Any, rank: int, number: int) -> None:
    sign = {**watch._sign_of_life(), "beat": number, "text": f"line of rank {rank}"}
    store.set(watch._key(rank), json.dumps(sign))


def reports(folder: Path) -> list[str]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path.read_text(encoding="utf-8") for path in paths]


def test_whose_signs_of_life_have_stopped_is_missing(tmp_path: Path, store: Any) -> None:
    watch = Watched(tmp_path / "reports", store)
    for rank in (1, 2):
        beat(watch, store, rank, 1)

    class Going:
        """Rank 2 gives a sign of life between the two looks, rank 1 does not."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def get(self, key: str) -> Any:
            value = store.get(key)
            if key == watch._key(2):
                beat(watch, store, 2, json.loads(value)["beat"] + 1)
            return value

    watch._given = Going()
    watch._report("why")
    (text,) = reports(tmp_path / "reports")
    assert text.startswith("ml-train: hang report: why\nRank 1 is missing.")
    assert "MISSING, no sign of life any more; was last at line of rank 1" in text
    watch._report("again")
    assert len(reports(tmp_path / "reports")) == 1


def test_one_rank_reports(tmp_path: Path, store: Any) -> None:
    watch = Watched(tmp_path / "reports", store)
    store.add(f"{watch._prefix}/reporter/0", 1)
    watch._report("why")
    assert reports(tmp_path / "reports") == []


def test_a_store_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)

    class Stopped:
        def add(self, key: str, amount: int) -> int:
            time.sleep(60)
            return 1

    watch = Watched(tmp_path / "reports", Stopped())
    started = time.monotonic()
    watch._report("why")
    assert time.monotonic() - started < 5
    (text,) = reports(tmp_path / "reports")
    assert "why. The job's key-value store does not answer" in text


def test_a_store_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)

    class Gone:
        def add(self, key: str, amount: int) -> int:
            raise RuntimeError("Connection reset by peer")

    Watched(tmp_path / "reports", Gone())._report("why")
    assert "does not answer" in reports(tmp_path / "reports")[0]


def test_errors_that_are_no_collectives_are_left_alone(tmp_path: Path, store: Any) -> None:
    watch = Watched(tmp_path / "reports", store)
    for error in (RuntimeError("shapes differ"), ValueError("x")):
        try:
            raise error
        except (RuntimeError, ValueError) as raised:
            assert watch.failed(raised) is None
    assert reports(tmp_path / "reports") == []


def test_an_error_that_shows_where_the_host_reads_a_value_is_no_collective(
    tmp_path: Path, store: Any
) -> None:
    def read() -> float:
        return torch.ones(2).item()  # raises in C++

    watch = Watched(tmp_path / "reports", store)
    try:
        read()
    except RuntimeError as raised:
        assert position_of_error(raised).for_device
        assert watch.failed(raised) is None
    assert reports(tmp_path / "reports") == []


@pytest.mark.parametrize("for_device", [True, False])
def test_a_wait_for_the_device_is_bounded_and_work_is_not(
    tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch, for_device: bool
) -> None:
    position = Position(text="f.py:1 in f", waits=for_device, for_device=for_device)
    monkeypatch.setattr(module, "position_of", lambda _: position)
    monkeypatch.setattr(module, "LEAVE_SECONDS", 0.1)
    watch = Watched(tmp_path / "reports", store)
    watch._timeout = watch._interval = 0.1
    ends: list[str] = []
    monkeypatch.setattr(watch, "_end", lambda why: (ends.append(why), watch.stop()))
    guard = threading.Thread(target=watch._guard, daemon=True)
    guard.start()
    guard.join(timeout=20.0 if for_device else 1.0)
    watch.stop()
    # A collective would be ended after 0.21 s; the device's own timeout begins later.
    assert [why.endswith("in f.py:1 in f") for why in ends] == ([True] if for_device else [])
