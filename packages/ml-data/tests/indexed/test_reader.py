"""Opening many prefixes, and what happens to their maps."""

import ctypes
import errno
import gc
import mmap
import operator
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import ml_data
from ml_data.errors import FormatError
from ml_data.indexed import mapping, reader

_OPEN = """
import resource, sys, time, ml_data
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
started = time.process_time()
data = [ml_data.IndexedDataset(f"{sys.argv[1]}/p{number}") for number in range(2000)]
print((time.process_time() - started) / 2000)
assert all(dataset[1].tolist() == [4, 5] for dataset in data)
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


def test_a_bin_of_another_size_is_refused_on_opening(pair: Path) -> None:
    whole = Path(f"{pair}.bin").read_bytes()
    for changed in (b"", whole[:-2], whole + whole):
        Path(f"{pair}.bin").write_bytes(changed)
        with pytest.raises(FormatError, match=rf"p.bin holds {len(changed) // 2} tokens, but its"):
            ml_data.IndexedDataset(pair)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (34, (9).to_bytes(4, "little"), "sequence 0 lies outside"),
        (34, (-5).to_bytes(4, "little", signed=True), "sequence 0 has -5 tokens: damaged"),
        (42, (1).to_bytes(8, "little"), "sequence 0 lies outside"),
        (42, (1 << 40).to_bytes(8, "little"), "sequence 0 lies outside"),
        (42, (-2).to_bytes(8, "little", signed=True), "sequence 0 lies outside"),
    ],
)
def test_a_sequence_that_is_not_there_is_an_error(
    pair: Path, offset: int, value: bytes, words: str
) -> None:
    raw = bytearray(Path(f"{pair}.idx").read_bytes())
    raw[offset : offset + len(value)] = value
    Path(f"{pair}.idx").write_bytes(raw)
    data = ml_data.IndexedDataset(pair)
    with pytest.raises(FormatError, match=words):
        data[0]
    assert data[1].tolist() == [4, 5]


def test_documents_that_do_not_end_with_the_sequences(pair: Path) -> None:
    raw = Path(f"{pair}.idx").read_bytes()
    Path(f"{pair}.idx").write_bytes(raw[:-8] + bytes(8))
    with pytest.raises(FormatError, match="documents reach from sequence 0 to 0 of 2"):
        ml_data.IndexedDataset(pair)


def test_indices_and_slices_are_those_of_a_list(pair: Path) -> None:
    data, expected = ml_data.IndexedDataset(pair), [[1, 2, 3], [4, 5]]
    for index in (0, 1, -1, -2, np.int32(1), np.uint8(1), np.int64(-1), True):
        assert data[index].tolist() == expected[index]
    for part in (slice(None), slice(1, 2), slice(-1, None), slice(1, 1), slice(0, 9), slice(5, 9)):
        assert [ids.tolist() for ids in data[part]] == expected[part]
    for index in (2, -3, np.int64(7)):
        with pytest.raises(IndexError, match="it has 2"):
            data[index]
    with pytest.raises(ValueError, match="step 1"):
        data[::2]
    for wrong in (1.0, "0", None, [0]):
        with pytest.raises(TypeError):
            data[wrong]  # type: ignore[call-overload]
    assert data.get(0, 1).tolist() == [2, 3]
    assert data.get(np.int64(0), offset=1, length=1).tolist() == [2]
    assert data.get(1, 2).tolist() == []
    for offset, length in ((0, 4), (-1, None), (4, None), (1, -1)):
        with pytest.raises(ValueError, match="of sequence 0"):
            data.get(0, offset, length)


def test_its_pickle_is_its_path(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ml_data.IndexedDatasetWriter(f"{pair}-large", np.int32) as writer:
        writer.add_document(np.arange(1_000_000), [1_000_000])
    monkeypatch.chdir(pair.parent)
    data = ml_data.IndexedDataset("p-large")
    assert len(pickle.dumps(data)) < 1000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        monkeypatch.chdir("/")
        assert len(pool.submit(operator.itemgetter(0), data).result(timeout=60)) == 1_000_000
    again = pickle.loads(pickle.dumps(data))
    assert again.prefix == "p-large"
    assert maps_of(Path(f"{pair}-large")) == 4 or not Path("/proc/self/maps").exists()
    Path(f"{pair}-large.bin").write_bytes(b"")
    with pytest.raises(FormatError, match="holds 0 tokens"):
        pickle.loads(pickle.dumps(data))


def test_a_file_system_without_maps(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def map_file(path: Path) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(path))

    monkeypatch.setattr(reader, "map_file", map_file)
    with pytest.warns(UserWarning, match=r"p\.bin cannot be mapped into memory \(No such device"):
        data = ml_data.IndexedDataset(pair)
    assert [ids.tolist() for ids in data] == [[1, 2, 3], [4, 5]]
    assert data.tokens.tolist() == [1, 2, 3, 4, 5]
    assert data.document_indices.tolist() == [0, 1, 2]
    assert not data[0].flags.writeable
    assert not data.sequence_lengths.flags.writeable
    Path(f"{pair}.bin").write_bytes(b"")
    with pytest.raises(FormatError, match="cut off since it was opened"):
        data[0]


def test_private_maps_serve_where_there_are_no_shared_ones(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = mapping._system()

    class PrivateOnly:
        munmap = system.munmap

        @staticmethod
        def mmap(address: None, size: int, protection: int, kind: int, *rest: int) -> int:
            if kind == mmap.MAP_SHARED:
                ctypes.set_errno(errno.ENODEV)
                return int(mapping._FAILED or 0)
            return int(system.mmap(address, size, protection, kind, *rest))

    monkeypatch.setattr(mapping, "_system", PrivateOnly)
    assert ml_data.IndexedDataset(pair).tokens.tolist() == [1, 2, 3, 4, 5]


def test_an_ending_too_many_is_pointed_out(pair: Path) -> None:
    for ending in (".bin", ".idx", ".json"):
        with pytest.raises(FormatError, match=rf"Leave the ending away: {pair}$"):
            ml_data.IndexedDataset(f"{pair}{ending}")
    with pytest.raises(FormatError, match=r"and \.idx$"):
        ml_data.IndexedDataset(f"{pair}.txt")
    Path(f"{pair}x.idx").mkdir()
    with pytest.raises(FormatError, match="is a folder"):
        ml_data.IndexedDataset(f"{pair}x")
