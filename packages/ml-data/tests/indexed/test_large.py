"""Offsets and counts beyond 2^31, on sparse files."""

from pathlib import Path

import numpy as np

from ml_data.indexed import layout
from ml_data.indexed.copy import IndexFile
from ml_data.indexed.reader import IndexedDataset
from ml_data.indexed.writer import IndexedDatasetWriter

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
