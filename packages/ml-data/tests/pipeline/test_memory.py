"""Peak memory of a whole run, worker processes included, at sizes where growth would show."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ml_data

GIB = 1 << 30


def chunk(megabytes: int) -> pa.Array:
    """Texts of about 2 kB, all different."""
    words = "the quick brown fox jumps over the lazy dog, \u4f60\u597d and 1,234 times more\n"
    return pa.array([f"{number:x} {words * 25}" for number in range(megabytes * 490)])


def one_row_group(folder: Path) -> int:
    """A file of 1.1 GB with a single row group; the size of its column chunk."""
    table = pa.table({"text": pa.chunked_array([chunk(22)] * 50)})
    path = folder / "a.parquet"
    pq.write_table(table, path, row_group_size=len(table), use_dictionary=False, compression="none")
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == 1
    return int(metadata.row_group(0).column(0).total_uncompressed_size)


def many_files(folder: Path) -> int:
    """1.1 GB in 50 files; the size of a column chunk."""
    table = pa.table({"text": chunk(22)})
    for number in range(50):
        pq.write_table(table, folder / f"{number:02}.parquet", use_dictionary=False)
    return int(table.nbytes)


def one_cell(folder: Path) -> int:
    """A text of 260 MB between short ones; its size."""
    text = "".join(chunk(20).to_pylist()) * 13
    pq.write_table(pa.table({"text": ["short", text, "short"]}), folder / "a.parquet")
    return len(text.encode())


def tree_bytes(process: psutil.Process) -> int:
    """PSS of a process and all below it."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue
    return total


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fast", "sentencepiece"])
@pytest.mark.parametrize("make", [one_row_group, many_files, one_cell])
def test_peak_memory_with_four_workers(
    tmp_path: Path, tokenizer_path: Path, make: Callable[[Path], int], engine: str
) -> None:
    """The promise is 2 GiB and four times the largest chunk or cell; chunks are read in pieces."""
    if engine == "sentencepiece" and make is not one_row_group:
        pytest.skip("the same reader and writer; a gigabyte takes two minutes")
    folder = tmp_path / "in"
    folder.mkdir()
    largest = make(folder)
    command = [
        *(sys.executable, "-m", "ml_data.cli", "tokenize", "--input", str(folder)),
        *("--workers", "4", "--append-eod", "--engine", engine, "--log-interval", "1000000000"),
        *("--tokenizer-name-or-path", str(tokenizer_path), "--output-prefix", str(tmp_path / "p")),
    ]
    peak = 0
    with subprocess.Popen(command) as run:
        process = psutil.Process(run.pid)
        while run.poll() is None:
            try:
                peak = max(peak, tree_bytes(process))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
    assert run.returncode == 0
    print(f"peak {peak / 1e6:.0f} MB, largest chunk or cell {largest / 1e6:.0f} MB")
    bound = 2 * GIB + (4 * largest if make is one_cell else 0)
    assert 0 < peak < bound
    data = ml_data.IndexedDataset(tmp_path / "p_text_document")
    assert data.num_tokens > 50_000_000
