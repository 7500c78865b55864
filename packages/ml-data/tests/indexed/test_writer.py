"""IndexedDatasetWriter keeps its contract: a whole pair or none, and no document that is wrong."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_data import IndexedDataset, IndexedDatasetWriter, verify
from ml_data.errors import OutputError, UsageError


def test_the_end_of_the_block_finishes_the_pair(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "sub" / "p", np.int32) as writer:
        writer.add_document([1, 2, 3], [1, 2])
        writer.add_document([], [])
        writer.add_document(np.array([4], np.uint8), (1,))
        writer.add_batch([5, 6], [1, 0, 1])
    assert sorted(os.listdir(tmp_path / "sub")) == ["p.bin", "p.idx"]
    data = IndexedDataset(tmp_path / "sub" / "p")
    assert [ids.tolist() for ids in data] == [[1], [2, 3], [4], [5], [6]]
    assert data.document_indices.tolist() == [0, 2, 2, 3, 4, 4, 5]
    assert verify(tmp_path / "sub" / "p").is_sound


def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), IndexedDatasetWriter(tmp_path / "p", np.int32) as writer:
        writer.add_document([1], [1])
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_finalize_is_the_end(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "p", np.int32) as writer:
        writer.add_document([1], [1])
        writer.finalize()
        writer.finalize()
        with pytest.raises(OutputError, match="the writer is finished"):
            writer.add_document([2], [1])
    assert len(IndexedDataset(tmp_path / "p")) == 1


@pytest.mark.parametrize(
    ("ids", "lengths", "words"),
    [
        ([1, 2, 3], [2], "3 ids were given, and lengths whose sum is 2"),
        ([1], [2], "all documents after this would shift"),
        ([1, 2], [3, -1], "lengths from -1 to 3"),
        ([1, 2], [2, 0], "a sequence of length 0"),
        ([], [1 << 31], "a sequence has 0 to 2147483647"),
        ([1.0, 2.0], [2], "ids are of type float64: they must be whole numbers"),
        ([1], [1.0], "lengths are of type float64"),
        ([True], [1], "of type bool"),
        (["a"], [1], "whole numbers"),
        ([1 << 80], [1], "whole numbers"),
        (None, [1], "shape"),
        (7, [1], "shape"),
        ([[1, 2], [3, 4]], [4], r"shape \(2, 2\)"),
        ([[1, 2], [3]], [3], "no flat array"),
        ([70_000], [1], "token ids from 70000 to 70000 do not fit uint16"),
        ([-1], [1], "token ids from -1 to -1 do not fit"),
    ],
)
def test_a_document_that_is_wrong_is_refused_and_not_written(
    tmp_path: Path, ids: Any, lengths: Any, words: str
) -> None:
    with IndexedDatasetWriter(tmp_path / "p", np.uint16) as writer:
        writer.add_document([5], [1])
        with pytest.raises(OutputError, match=words):
            writer.add_document(ids, lengths)
        writer.add_document([6, 7], [2])
    assert [ids.tolist() for ids in IndexedDataset(tmp_path / "p")] == [[5], [6, 7]]
    assert verify(tmp_path / "p").is_sound


def test_negative_ids_are_refused_in_a_signed_type(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "p", np.int32) as writer:
        with pytest.raises(OutputError, match="from -2 to 1 do not fit int32"):
            writer.add_document(np.array([1, -2], np.int32), [2])
        with pytest.raises(OutputError, match="do not fit int32"):
            writer.add_batch(np.array([2**31], np.int64), [1])


@pytest.mark.parametrize("dtype", [np.float32, np.uint32, "banana", object, bool])
def test_a_type_that_ids_cannot_have(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(OutputError, match="dtype"):
        IndexedDatasetWriter(tmp_path / "p", dtype)
    assert not list(tmp_path.iterdir())


def test_big_endian_types_are_written_little_endian(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "p", np.dtype(">i4")) as writer:
        writer.add_document(np.array([1, 258], ">i4"), [2])
    assert (tmp_path / "p.bin").read_bytes() == bytes([1, 0, 0, 0, 2, 1, 0, 0])


def test_two_writers_of_one_prefix(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "p", np.int32) as writer:
        writer.add_document([1], [1])
        with pytest.raises(OutputError, match="in use by another run"):
            IndexedDatasetWriter(tmp_path / "p", np.int32, overwrite=True)
    assert len(IndexedDataset(tmp_path / "p")) == 1


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    writer = IndexedDatasetWriter(tmp_path / "p", np.int32)
    writer.add_document([1, 2], [2])
    writer.seal()
    (tmp_path / "p.work" / "p.bin.tmp").replace(tmp_path / "p.bin")  # killed before the .idx
    writer._publication.keep_work()
    with pytest.raises(OutputError, match="p.bin exists"):
        IndexedDatasetWriter(tmp_path / "p", np.int32)
    # The folder is kept, as what is in it proves whose the .bin is.
    with IndexedDatasetWriter(tmp_path / "p", np.int32, overwrite=True) as writer:
        writer.add_document([3], [1])
    assert sorted(os.listdir(tmp_path)) == ["p.bin", "p.idx"]


def test_a_folder_is_no_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        IndexedDatasetWriter(f"{tmp_path}/", np.int32)
    monkeypatch.setenv("HOME", str(tmp_path))
    with IndexedDatasetWriter("~/p", np.int32) as writer:
        writer.add_document([1], [1])
    assert sorted(os.listdir(tmp_path)) == ["p.bin", "p.idx"]
