"""The folder P.work: everything that a run writes before it is valid."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_data.errors import OutputError
from ml_data.indexed.files import reporting_output
from ml_data.pipeline.journal import Journal


@contextmanager
def locked_work(work: Path, journal: Journal) -> Iterator[None]:
    """Hold the work folder for this process alone; remove it unless a later run can go on from it.

    Raises OutputError when it cannot be made or another run holds it.
    """
    with reporting_output(work):
        work.mkdir(parents=True, exist_ok=True)
        handle = os.open(work / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{work} is in use by another run: wait for it, or choose another --output-prefix"
            ) from None
        try:
            yield
        except BaseException:
            if journal.num_shards == 0:
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(handle)
