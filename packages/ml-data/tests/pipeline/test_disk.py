"""A disk that fills up, a folder that cannot be written: one sentence, no final name."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_data.errors import OutputError
from ml_data.indexed.files import reporting_output
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import files_of, write_lines

Make = Callable[..., TokenizeOptions]

# A small file system of its own, in a namespace of its own; the run is repeated when it has grown.
_SCRIPT = """
set -e
mount -t tmpfs -o size="$SIZE" none "$DISK"
code=0; "$@" || code=$?
echo "first $code"; (cd "$DISK"; ls)
mount -o remount,size=64m "$DISK"
"$@"
cp "$DISK"/* "$KEPT"
"""


def can_mount(folder: Path) -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("size", ["4k", "200k", "600k"])
def test_a_full_disk(
    tmp_path: Path, sample: Path, tokenizer_path: Path, options: Make, size: str
) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    if not can_mount(disk):
        pytest.skip("this machine lets no user mount a file system in a namespace")
    command = [
        *(sys.executable, "-m", "ml_data.cli", "tokenize", "--input", str(sample)),
        *("--tokenizer-name-or-path", str(tokenizer_path), "--append-eod", "--workers", "2"),
        *("--output-prefix", str(disk / "p"), "--shard-bytes", "100000", "--batch-bytes", "50000"),
    ]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _SCRIPT, "sh", *command],
        env={**os.environ, "SIZE": size, "DISK": str(disk), "KEPT": str(kept)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "the disk is full: free some space or choose another folder" in done.stderr
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stdout.partition("\n")
    assert first == "first 1"
    left = {line for line in rest.splitlines() if line.startswith("p_") and ":" not in line}
    assert not left, "something lies under a final name"
    tokenize(options(sample, append_eod=True))
    assert files_of(kept / "p_text_document") == files_of(tmp_path / "out" / "p_text_document")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_each_durable_step_may_fail(
    tmp_path: Path, options: Make, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    rows: list[Any] = [{"text": f"row {index} " * 9} for index in range(60)]
    path = write_lines(tmp_path / "a.jsonl", [*rows, b"{bad", *rows])
    tokenize(options(path, name="quiet"))
    expected = files_of(tmp_path / "out" / "quiet_text_document")
    expected[".json"] = expected[".json"].replace(b"quiet_", b"p_")
    step = 0
    while True:
        step += 1
        made = options(path, output_prefix=str(tmp_path / f"{step}" / "p"))
        seen = 0

        def failing(call: Callable[..., Any], last: int = step) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == last:
                    raise OSError(code, os.strerror(code))
                return call(*args, **kwargs)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(os.fsync))
            patch.setattr(Path, "replace", failing(Path.replace))
            try:
                tokenize(made)
            except OutputError as error:
                assert str(error).startswith("cannot write ")
                # After the last rename, only syncing the folder is left: all is in place.
                if (tmp_path / f"{step}" / "p_text_document.idx").exists():
                    assert files_of(tmp_path / f"{step}" / "p_text_document") == expected
            else:
                break
        tokenize(made)
        assert files_of(tmp_path / f"{step}" / "p_text_document") == expected
    assert step > 10


def test_a_read_only_folder(tmp_path: Path, sample: Path, tokenizer_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if not can_mount(folder):
        pytest.skip("this machine lets no user mount a file system in a namespace")
    command = [
        *(sys.executable, "-m", "ml_data.cli", "tokenize", "--input", str(sample)),
        *("--tokenizer-name-or-path", str(tokenizer_path), "--output-prefix", str(folder / "p")),
    ]
    mount = f'mount -t tmpfs -o ro none "{folder}" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", *command], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "the file system is read-only: choose another folder" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(folder.iterdir())


def test_a_folder_without_permission(tmp_path: Path, options: Make, sample: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # root may write there all the same
        with pytest.raises(OutputError, match="no permission to write there"):
            with reporting_output("p.bin"):
                raise PermissionError(errno.EACCES, "Permission denied")
        return
    with pytest.raises(OutputError, match="no permission to write there"):
        tokenize(options(sample, output_prefix=str(folder / "p")))
    assert not list(folder.iterdir())
