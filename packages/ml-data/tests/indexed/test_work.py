"""The work folder: one process at a time, on file systems with and without locks and syncing."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ml_data
from ml_data.errors import OutputError
from ml_data.indexed.files import sync_directory
from ml_data.indexed.work import WorkFolder
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import files_of, write_lines

Make = Callable[..., TokenizeOptions]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = WorkFolder(tmp_path / "p.work")
    with pytest.raises(OutputError, match="in use by another run"):
        WorkFolder(tmp_path / "p.work")
    first.release()
    second = WorkFolder(tmp_path / "p.work")
    second.remove()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_goes_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run ends between our opening its lock file and locking it."""
    other = WorkFolder(tmp_path / "p.work")
    flock, calls = fcntl.flock, 0

    def lock(handle: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            other.remove()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    work = WorkFolder(tmp_path / "p.work")
    assert calls == 2
    with pytest.raises(OutputError, match="in use"):
        WorkFolder(tmp_path / "p.work")
    work.remove()


def test_foreign_files_in_an_own_folder_are_kept(tmp_path: Path) -> None:
    notices: list[str] = []
    work = WorkFolder(tmp_path / "p.work", notices.append)
    (work.path / "p.bin.tmp").write_bytes(b"of a run")
    (work.path / "diary.txt").write_bytes(b"of a user")
    work.remove()
    assert os.listdir(tmp_path / "p.work") == ["diary.txt"]
    assert "'diary.txt' in it is not of ml-data" in notices[0]


def test_the_progress_of_a_run_is_not_cleared_by_another_command(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "p.work", keeps_journal=True)
    (work.path / "journal.jsonl").write_bytes(b"{}\n")
    work.release()
    with pytest.raises(OutputError, match="progress of an ml-data tokenize that is not finished"):
        ml_data.IndexedDatasetWriter(tmp_path / "p", np.int32)
    assert (tmp_path / "p.work" / "journal.jsonl").exists()


def failing_on_folders(code: int) -> Callable[[int], None]:
    fsync = os.fsync

    def sync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    return sync


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    tmp_path: Path, options: Make, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    notices: list[str] = []
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    tokenize(options(lines), on_notice=notices.append)
    assert "has no locks" in notices[0]
    assert len(notices) == 1
    assert sorted(files_of(tmp_path / "out" / "p")) == [
        f"_text_document{suffix}" for suffix in (".bin", ".idx", ".json")
    ]
    with pytest.warns(UserWarning, match="has no locks"):
        ml_data.IndexedDatasetWriter(tmp_path / "w", np.int32).finalize()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_file_system_without_sync(
    tmp_path: Path, options: Make, monkeypatch: pytest.MonkeyPatch, code: int, everywhere: bool
) -> None:
    def fsync(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync if everywhere else failing_on_folders(code))
    notices: list[str] = []
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    tokenize(options(lines), on_notice=notices.append)
    # The work folder and the output's: each file system is named once, not each file.
    assert 1 <= len(notices) <= 2
    assert all("cannot sync" in text for text in notices)
    assert ml_data.verify(tmp_path / "out" / "p_text_document").is_sound


def test_a_folder_that_cannot_be_opened_is_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", closed)
    notices: list[str] = []
    sync_directory(tmp_path, notices.append)
    assert "cannot sync (Permission denied)" in notices[0]
