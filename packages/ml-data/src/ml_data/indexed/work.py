"""The folder P.work: everything that a command writes before it is valid.

One process at a time uses the folder, by a lock on the file `lock` in it. A folder of that name
that this package did not make is refused. A file in the folder that this package did not make is
never removed.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

from ml_data.errors import OutputError
from ml_data.indexed.files import reporting_output
from ml_data.notices import Notice, ignore_notice

JOURNAL = "journal.jsonl"
_LOCK = "lock"
_MARK = b"ml-data work folder\n"
_OWN_NAMES = re.compile(
    rf"{_LOCK}|{re.escape(JOURNAL)}|.*\.(bin|idx|json|lengths|documents|quarantine(\.jsonl)?)\.tmp",
    re.DOTALL,
)
# How often the folder is opened again that another run removes at the same moment.
_ATTEMPTS = 20


class WorkFolder:
    """The folder `path`, made and locked on construction.

    A journal in it is the progress of `ml-data tokenize`, the only command that `keeps_journal`.
    Raises OutputError when the folder cannot be made, was not made by this package, is used by
    another run, or has a journal that this command would have to remove.
    """

    def __init__(
        self, path: Path, notice: Notice = ignore_notice, *, keeps_journal: bool = False
    ) -> None:
        self.path, self._notice = path, notice
        with reporting_output(path):
            for _ in range(_ATTEMPTS):
                self._handle = self._open()
                try:
                    self._lock()
                    if self._is_current():
                        if not keeps_journal:
                            self._refuse_journal()
                        self._mark()
                        return
                except BaseException:
                    os.close(self._handle)
                    raise
                # A run that ended between the opening and the locking has removed the folder.
                os.close(self._handle)
        raise OutputError(f"{path} is removed again and again by another run: stop that one first")

    def _open(self) -> int:
        with suppress(FileExistsError):
            self.path.mkdir(parents=True)
        if not self.path.is_dir():
            raise OutputError(
                f"{self.path} exists and is not a folder, but the temporary files go there: move "
                "it away, or choose another prefix"
            )
        self._refuse_stranger()
        return os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)

    def _refuse_stranger(self) -> None:
        """Accept a folder that is empty, has this package's mark, or only names of its files."""
        names = sorted(os.listdir(self.path))
        foreign = [name for name in names if not _OWN_NAMES.fullmatch(name)]
        lock = self.path / _LOCK
        content = lock.read_bytes()[: len(_MARK)] if lock.is_file() else None
        # Version 1.0 left the lock empty. So does a run that is killed right after it made it.
        if content == _MARK or not names or (content == b"" and not foreign):
            return
        example = (foreign or names)[0]
        raise OutputError(
            f"{self.path} exists and was not made by ml-data (it holds {example!r}), but the "
            "temporary files go there: choose another prefix, or move the folder away"
        )

    def _refuse_journal(self) -> None:
        if (self.path / JOURNAL).exists():
            raise OutputError(
                f"{self.path} holds the progress of an ml-data tokenize that is not finished: "
                "finish it or remove the folder, or choose another prefix"
            )

    def _lock(self) -> None:
        try:
            # The system ends the lock with the process, so a killed run leaves no stale lock.
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self.path} is in use by another run: wait for it, or choose another prefix"
            ) from None
        except OSError as error:
            self._notice(
                f"the file system of {self.path} has no locks ({error.strerror}): see to it that "
                "no second run writes to the same prefix"
            )

    def _is_current(self) -> bool:
        """Whether the file that was locked is still the one under the name `lock`."""
        try:
            named, locked = os.stat(self.path / _LOCK), os.fstat(self._handle)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino)

    def _mark(self) -> None:
        # On a full disk the lock stays empty, which is accepted, too. The next file that is written
        # to the folder then raises the error of the full disk.
        with suppress(OSError):
            if os.fstat(self._handle).st_size != len(_MARK):
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, _MARK, 0)

    def clear(self) -> None:
        """Remove what an earlier run left, but for the lock."""
        for name in os.listdir(self.path):
            if name != _LOCK and _OWN_NAMES.fullmatch(name):
                with suppress(FileNotFoundError):
                    (self.path / name).unlink()

    def remove(self) -> None:
        """Remove the files of this package, and the folder when it is empty; end the lock.

        Errors are ignored: the output is whole without this, or another error is being raised.
        """
        with suppress(OSError):
            self.clear()
            foreign = sorted(set(os.listdir(self.path)) - {_LOCK})
            (self.path / _LOCK).unlink()
            if foreign:
                self._notice(f"{self.path} is kept: {foreign[0]!r} in it is not of ml-data")
        self.release()
        with suppress(OSError):
            self.path.rmdir()

    def leave(self) -> None:
        """End the lock of a command that changed nothing, and keep what an earlier command left."""
        with suppress(OSError):
            if os.listdir(self.path) == [_LOCK]:
                self.remove()
        self.release()

    def release(self) -> None:
        """End the lock and leave the folder for a later run."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
