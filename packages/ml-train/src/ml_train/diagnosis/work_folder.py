"""Where a verify command keeps its runs: the user's folder, or a temporary folder."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_train import terminal
from ml_train.errors import ConfigError


@contextmanager
def work_folder(given: str | None, prefix: str) -> Iterator[Path]:
    """--work-dir, which must be empty, or a temporary folder.

    A temporary folder is removed at the end. It stays after an error, which names logs in it.
    """
    if given is not None:
        folder = Path(given).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise ConfigError(f"--work-dir {folder} is not empty; name another folder.")
        except OSError as error:
            raise ConfigError(f"--work-dir {folder} cannot be used: {error.strerror}.") from error
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    except Exception:
        if any(folder.iterdir()):
            terminal.notice(f"kept for its logs: {folder}")
        else:
            folder.rmdir()
        raise
    except BaseException:  # Ctrl-C: no error names a log.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
