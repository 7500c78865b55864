"""Two jobs must not write to one --save: SAVE/in_use.json, the mark, says which job does.

    {"host": ..., "pid": ..., "created": ..., "machine": ..., "since": UTC, "token": HEX}

The mark works on shared storage without flock. It is made with O_EXCL, which is atomic on NFS too,
and its job renews its time of change every BEAT_SECONDS. A second job asks whether the process of
the mark runs. On the same machine it sees that at once. From another machine it watches the file:
after SILENT_LOOKS looks without a change, LOOK_SECONDS apart, the first job counts as dead and its
mark is removed.

Clocks of different machines are never compared. A file system that hangs for a while delays a look
and does not count as several. Should the mark of a living job be removed after all, that job sees
it before its next save and ends instead of writing.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ml_train import terminal
from ml_train.errors import CheckpointError
from ml_train.processes import ProcessMark

NAME = "in_use.json"
BEAT_SECONDS = 5.0
SILENT_LOOKS = 30
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class _Look:
    """The mark at a moment."""

    content: bytes
    changed: int
    """Nanoseconds, by the clock of the storage."""

    def values(self) -> dict[str, object] | None:
        """The mark's JSON object; None while it is being written, or if its writer died then."""
        try:
            values = json.loads(self.content)
        except ValueError:
            return None
        return values if isinstance(values, dict) else None


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The job that a mark names."""

    text: str
    """Its host, process and start."""
    lives: bool | None
    """None where it is on another machine, which only watching the mark can tell."""


def holder_of(directory: Path) -> Holder | None:
    """Whose mark is in `directory`, without touching it; None without a mark. OSError."""
    try:
        look = _look(directory / NAME)
    except NotADirectoryError:
        return None
    if look is None:
        return None
    values = look.values() or {}
    return Holder(text=_described(values), lives=_lives(values))


class SaveLock:
    """A job's right to write to a directory. Global rank 0's process has it."""

    def __init__(self, directory: Path, say: Callable[[str], None] = terminal.notice):
        """say: told of a wait for another job's sign of life."""
        self._directory = directory
        self._path = directory / NAME
        self._say = say
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._handle: int | None = None

    def acquire(self) -> None:
        """Make the directory and the mark.

        Raises CheckpointError where another job uses the directory or it cannot be written.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            while not self._make():
                self._make_way()
        except OSError as error:
            raise CheckpointError(
                f"--save {self._directory} cannot be written: {error.strerror or error}. Give a "
                "directory that can be made and written by this user."
            ) from error
        threading.Thread(target=self._beat, daemon=True, name="save lock").start()

    def holder(self) -> str | None:
        """None while this job may write; else a description of the job that may. OSError."""
        look = _look(self._path)
        if look is None:
            # The mark was deleted: make it again, unless another job is faster.
            if self._make():
                return None
            look = _look(self._path)
        values = (look.values() if look else None) or {}
        return None if values.get("token") == self._token else _described(values)

    def release(self) -> None:
        """Remove the mark. Does nothing the second time, or if it is another job's by now."""
        self._stop.set()
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            look = _look(self._path)
            if look is not None and (look.values() or {}).get("token") == self._token:
                self._path.unlink()
        os.close(self._handle)
        self._handle = None

    def _make(self) -> bool:
        """Make the mark; False where there is a mark already. OSError."""
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        values = {**asdict(ProcessMark.of(os.getpid())), "since": since, "token": self._token}
        try:
            os.write(handle, json.dumps(values, indent=1).encode() + b"\n")
            os.fsync(handle)
        except OSError:
            os.close(handle)
            self._path.unlink(missing_ok=True)
            raise
        if self._handle is not None:
            os.close(self._handle)
        self._handle = handle
        return True

    def _make_way(self) -> None:
        """Remove the mark of a dead job. Raises CheckpointError where the job lives."""
        look = _look(self._path)
        if look is None:
            return
        values = look.values() or {}
        lives = _lives(values)
        if lives is None:
            lives = self._gives_signs(look, values)
        if lives:
            raise CheckpointError(self._refusal(values))
        self._take_away(look)

    def _gives_signs(self, first: _Look, values: Mapping[str, object]) -> bool:
        """Whether the mark changes while it is watched, which takes half a minute."""
        self._say(
            f"{self._path} says that {_described(values)} writes there; watching for "
            f"{SILENT_LOOKS * LOOK_SECONDS:g} s whether that job still lives"
        )
        for _ in range(SILENT_LOOKS):
            time.sleep(LOOK_SECONDS)
            look = _look(self._path)
            if look is None:
                return False
            if look != first:
                return True
        return False

    def _take_away(self, dead: _Look) -> None:
        """Remove the mark `dead`, and no other that a faster job may have put there since.

        A claim is a file named after the dead mark, made with O_EXCL. Only its maker removes the
        mark, and only if the mark is unchanged once the claim exists. A job that was slow between
        its look and its claim therefore meets the new mark and leaves it alone.
        """
        claim = self._path.with_name(f"{NAME}.{hashlib.sha256(dead.content).hexdigest()[:12]}")
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            self._await_claim(claim)
            return
        try:
            if _look(self._path) == dead:
                self._path.unlink(missing_ok=True)
        finally:
            claim.unlink(missing_ok=True)

    def _await_claim(self, claim: Path) -> None:
        """Wait until another job has removed the dead mark, or has died in that moment itself."""
        for _ in range(SILENT_LOOKS):
            if not claim.exists():
                return
            time.sleep(LOOK_SECONDS)
        claim.unlink(missing_ok=True)

    def _refusal(self, values: Mapping[str, object]) -> str:
        pid, host = values.get("pid", "?"), values.get("host", "?")
        return (
            f"--save {self._directory} is in use by another job: {_described(values)}. Two runs in "
            "one directory would delete each other's checkpoints. Choose another --save, or end "
            f"that job first (kill {pid} on {host}). After its death its mark is taken away by "
            f"itself; should that fail, delete {self._path}."
        )

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # A busy file system may fail for a while; the next beat tries again.
            with contextlib.suppress(OSError):
                if self._handle is not None:
                    os.utime(self._handle)


def _look(path: Path) -> _Look | None:
    """The mark; None where there is none.

    The file is opened each time, as NFS asks its server when a file is opened and answers from a
    cache otherwise.
    """
    try:
        with path.open("rb") as stream:
            changed = os.fstat(stream.fileno()).st_mtime_ns
            return _Look(stream.read(1 << 16), changed)
    except FileNotFoundError:
        return None


def _lives(values: Mapping[str, object]) -> bool | None:
    """Whether the process of a mark runs; None where this machine cannot know."""
    try:
        return ProcessMark.read(values).runs()
    except (KeyError, TypeError, ValueError):
        return None


def _described(values: Mapping[str, object]) -> str:
    return (
        f"host {values.get('host', 'unknown')}, pid {values.get('pid', 'unknown')}, since "
        f"{values.get('since', 'unknown')}"
    )
