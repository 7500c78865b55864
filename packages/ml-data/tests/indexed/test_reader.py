"""Opening many prefixes, and what happens to their maps."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ml_data
from ml_data.errors import FormatError

_OPEN = """
import resource, sys, time, ml_data
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
started = time.process_time()
data = [ml_data.IndexedDataset(f"{sys.argv[1]}/p{number}") for number in range(2000)]
print((time.process_time() - started) / 2000)
assert all(one[1].tolist() == [4, 5] for one in data)
"""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    writer = ml_data.IndexedDatasetWriter(tmp_path / "p", np.dtype("<u2"))
    writer.add_batch(np.array([1, 2, 3, 4, 5], np.uint16), np.array([3, 2], np.int32))
    writer.finalize()
    return tmp_path / "p"


def test_2000_prefixes_open_in_milliseconds_each_whatever_the_limit_on_files(pair: Path) -> None:
    for number in range(2000):
        for suffix in (".bin", ".idx"):
            os.link(f"{pair}{suffix}", f"{pair}{number}{suffix}")
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(pair.parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.002


def maps_of(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path.resolve()))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_views_keep_their_map_and_the_last_one_frees_it(pair: Path) -> None:
    data = ml_data.IndexedDataset(pair)
    view, lengths = data[0][1:], data.sequence_lengths
    assert maps_of(pair) == 2
    del data
    gc.collect()
    assert view.tolist() == [2, 3]
    assert lengths.tolist() == [3, 2]
    assert maps_of(pair) == 2
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    del view
    gc.collect()
    assert maps_of(pair) == 1
    del lengths
    gc.collect()
    assert maps_of(pair) == 0


def test_a_file_that_cannot_be_mapped_is_named(pair: Path) -> None:
    code = (
        "import resource, sys, ml_data; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))"
        "\nml_data.IndexedDataset(sys.argv[1])"
    )
    raw = bytearray(Path(f"{pair}.idx").read_bytes())
    raw[34:58] = np.array([1 << 30] * 2, "<i4").tobytes() + np.array([0, 1 << 31], "<i8").tobytes()
    Path(f"{pair}.idx").write_bytes(raw)
    with Path(f"{pair}.bin").open("r+b") as file:
        file.truncate(1 << 32)
    done = subprocess.run([sys.executable, "-c", code, str(pair)], capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert f"{pair}.bin" in done.stderr


def test_damage_is_refused(pair: Path) -> None:
    with Path(f"{pair}.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FormatError, match="not a multiple of 2"):
        ml_data.IndexedDataset(pair)
