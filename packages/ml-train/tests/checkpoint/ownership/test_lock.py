"""Two jobs on one --save."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ml_train.checkpoint.ownership import lock
from ml_train.checkpoint.ownership.lock import SaveLock
from ml_train.errors import CheckpointError

HOLD = """
import sys, time
from pathlib import Path
from ml_train.checkpoint.ownership.lock import SaveLock
SaveLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(120)
"""


@pytest.fixture
def other_job(tmp_path: Path) -> Any:
    """Another process that writes to tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(lock, "SILENT_LOOKS", 10)


def foreign(path: Path, **changes: Any) -> dict[str, Any]:
    """Make the mark another machine's."""
    values = json.loads(path.read_text())
    values |= {"machine": "elsewhere", "host": "node7", **changes}
    path.write_text(json.dumps(values))
    return values


def test_the_second_job_is_refused_by_name(tmp_path: Path, other_job: Any) -> None:
    with pytest.raises(CheckpointError) as error:
        SaveLock(tmp_path).acquire()
    values = json.loads((tmp_path / lock.NAME).read_text())
    for word in (values["host"], str(other_job.pid), values["since"], str(tmp_path), "kill"):
        assert word in str(error.value)


@pytest.mark.parametrize("reaped", [True, False])
def test_a_dead_job_is_seen_at_once_on_this_machine(
    reaped: bool, tmp_path: Path, other_job: Any
) -> None:
    other_job.send_signal(signal.SIGKILL)
    if reaped:
        other_job.wait(timeout=10)
    else:
        os.waitid(os.P_PID, other_job.pid, os.WEXITED | os.WNOWAIT)
    messages: list[str] = []
    mark = SaveLock(tmp_path, messages.append)
    mark.acquire()
    assert mark.holder() is None and messages == []
    mark.release()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_has_by_now(tmp_path: Path, other_job: Any) -> None:
    path = tmp_path / lock.NAME
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "created": values["created"] - 100}))
    SaveLock(tmp_path).acquire()


def test_a_dead_job_of_another_machine_is_watched_for_a_while(tmp_path: Path, quick: None) -> None:
    first, messages = SaveLock(tmp_path), []
    first.acquire()
    foreign(tmp_path / lock.NAME)
    second = SaveLock(tmp_path, messages.append)
    second.acquire()
    assert "node7" in messages[0] and second.holder() is None
    # The first, should it live after all, sees that before its next save.
    assert str(os.getpid()) in (first.holder() or "")
    first.release()
    assert second.holder() is None, "a mark is taken away by its owner alone"


def test_a_living_job_of_another_machine_gives_signs(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    first = SaveLock(tmp_path)
    first.acquire()
    foreign(tmp_path / lock.NAME, pid=4711)
    with pytest.raises(CheckpointError, match="node7, pid 4711"):
        SaveLock(tmp_path, lambda text: None).acquire()
    first.release()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"{}"])
def test_a_torn_mark_is_taken_away(content: bytes, tmp_path: Path, quick: None) -> None:
    (tmp_path / lock.NAME).write_bytes(content)
    mark = SaveLock(tmp_path, lambda text: None)
    mark.acquire()
    assert mark.holder() is None


@pytest.mark.parametrize("dead", [False, True])
def test_of_jobs_that_race_one_wins(dead: bool, tmp_path: Path, quick: None) -> None:
    """From an empty directory, and after a dead job."""
    if dead:
        mark = SaveLock(tmp_path)
        mark.acquire()
        mark._stop.set()
        foreign(tmp_path / lock.NAME)
    locks = [SaveLock(tmp_path, lambda text: None) for _ in range(6)]
    gate, refused = threading.Barrier(len(locks)), []

    def run(mark: SaveLock) -> None:
        gate.wait()
        try:
            mark.acquire()
        except CheckpointError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=run, args=(mark,)) for mark in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    holders = [mark for mark in locks if mark.holder() is None]
    assert len(holders) == 1
    assert len(refused) == len(locks) - 1 and all("in use by another job" in r for r in refused)
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def test_a_job_that_was_slow_to_take_over_leaves_the_new_mark(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second job acts on the dead mark after a third has replaced it."""
    dead = SaveLock(tmp_path)
    dead.acquire()
    dead._stop.set()
    foreign(tmp_path / lock.NAME)
    slow, fast = (SaveLock(tmp_path, lambda text: None) for _ in range(2))
    take_away = slow._take_away

    def late(mark: Any) -> None:
        fast.acquire()
        take_away(mark)

    monkeypatch.setattr(slow, "_take_away", late)
    with pytest.raises(CheckpointError, match="in use by another job"):
        slow.acquire()
    assert fast.holder() is None
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def test_a_job_that_died_while_it_took_over_is_no_hindrance(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / lock.NAME).write_bytes(b"{")

    def die(path: Any, flags: int, mode: int = 0o777, *, real: Any = os.open) -> int:
        real(path, flags, mode)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        first = SaveLock(tmp_path, lambda text: None)
        patch.setattr(first, "_make", lambda: False)
        patch.setattr(lock.os, "open", die)
        first.acquire()
    assert len(list(tmp_path.iterdir())) == 2
    mark = SaveLock(tmp_path, lambda text: None)
    mark.acquire()
    assert mark.holder() is None
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def test_a_deleted_mark_is_made_again(tmp_path: Path) -> None:
    mark = SaveLock(tmp_path)
    mark.acquire()
    (tmp_path / lock.NAME).unlink()
    assert mark.holder() is None and (tmp_path / lock.NAME).is_file()
    mark.release()


def test_a_directory_that_cannot_be_made_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match="--save .*file.* cannot be written"):
            SaveLock(folder).acquire()


def test_signs_of_life_renew_the_time_of_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    mark = SaveLock(tmp_path)
    mark.acquire()
    path, seen = tmp_path / lock.NAME, set()
    for _ in range(200):
        seen.add(path.stat().st_mtime_ns)
        if len(seen) > 2:
            break
        time.sleep(0.02)
    assert len(seen) > 2
    mark.release()
