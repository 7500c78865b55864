"""Offsets and counts beyond 2^31, on sparse files."""

from pathlib import Path

import numpy as np
import psutil
import pytest

import ml_data
from ml_data.indexed import layout
from ml_data.indexed.copy import IndexFile
from ml_data.indexed.reader import IndexedDataset
from ml_data.indexed.writer import IndexedDatasetWriter
from ml_data.pipeline.combine import merge, split

LONG = 2**30


def test_reading_and_writing_beyond_2_to_the_31(tmp_path: Path) -> None:
    prefix = tmp_path / "large"
    writer = IndexedDatasetWriter(prefix, np.dtype("<i4"))
    writer.add_lengths(np.array([LONG, LONG, LONG, 3], np.int32))
    writer.add_marks(np.array([1, 3, 4]))
    writer.num_tokens = 3 * LONG + 3
    writer.seal()
    writer.temporary_idx.replace(layout.idx_path(prefix))
    with layout.bin_path(prefix).open("wb") as file:
        file.truncate(4 * (3 * LONG + 3))
        file.seek(4 * 3 * LONG)
        file.write(np.array([7, 8, 9], "<i4").tobytes())
    data = IndexedDataset(prefix)
    assert data.num_tokens == 3 * LONG + 3 > 2**31
    assert data.sequence_pointers.tolist() == [0, 4 * LONG, 8 * LONG, 12 * LONG]
    assert data[3].tolist() == [7, 8, 9]
    assert IndexFile(prefix).byte_of_document(2) == 12 * LONG
    assert IndexFile(prefix).byte_of_document(3) == 12 * LONG + 12


def sparse_pair(prefix: Path, lengths: list[int], last: list[int]) -> None:
    """A uint16 pair of zeros, one sequence a document, that ends with the ids `last`."""
    writer = IndexedDatasetWriter(prefix, np.dtype("<u2"))
    writer.add_lengths(np.array(lengths, np.int32))
    writer.add_marks(np.arange(1, len(lengths) + 1))
    writer.num_tokens = sum(lengths)
    writer.seal()
    writer.temporary_idx.replace(layout.idx_path(prefix))
    writer.close()
    with layout.bin_path(prefix).open("wb") as file:
        file.truncate(2 * sum(lengths))
        file.seek(2 * (sum(lengths) - len(last)))
        file.write(np.array(last, "<u2").tobytes())


@pytest.mark.slow
def test_merge_and_split_beyond_2_to_the_31(tmp_path: Path) -> None:
    """2^31 + 18 tokens: 4.3 GB, copied twice; memory stays where it was."""
    sparse_pair(tmp_path / "a", [LONG // 2, LONG // 2, 8], [1] * 8)
    sparse_pair(tmp_path / "b", [LONG // 2, LONG // 2, 10], [2] * 10)
    before = psutil.Process().memory_info().rss
    manifest = merge([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "c"))
    assert manifest.num_tokens == 2 * LONG + 18 > 2**31
    whole = ml_data.IndexedDataset(tmp_path / "c")
    assert [int(pointer) for pointer in whole.sequence_pointers] == [
        0, LONG, 2 * LONG, 2 * LONG + 16, 3 * LONG + 16, 4 * LONG + 16,
    ]  # fmt: skip
    assert whole[2].tolist() == [1] * 8
    assert whole[5].tolist() == [2] * 10
    del whole
    # The cut is the first document at or after that share.
    parts = split(str(tmp_path / "c"), str(tmp_path / "d"), [LONG + 4, LONG + 14])
    assert [part.num_tokens for part in parts] == [LONG + 8, LONG + 10]
    for name, number in (("a", 0), ("b", 1)):
        part = tmp_path / f"d.part-{number:05}-of-00002"
        assert layout.idx_path(part).read_bytes() == layout.idx_path(tmp_path / name).read_bytes()
        assert IndexedDataset(part)[2].tolist() == [number + 1] * (8 + 2 * number)
    assert psutil.Process().memory_info().rss - before < 64 << 20
    report = ml_data.verify(tmp_path / "c")
    assert report.is_sound, report.faults
    assert report.num_tokens == 2 * LONG + 18
    for path in tmp_path.glob("*.bin"):
        path.unlink()
