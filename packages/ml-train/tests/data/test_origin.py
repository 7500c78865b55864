"""Ids outside the vocabulary: an error that names document and offset, before a model has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_loaders import firsts, loaders
from token_files import write_documents

from ml_data.indexed.writer import IndexedDatasetWriter
from ml_train.config.sections.data import DataSection
from ml_train.data.origin import check_batch
from ml_train.errors import DataError

LENGTH, COUNT = 1000, 200
# Document 1, offset 800: between the blocks that are read at the start.
WRONG = 1800


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 500, LENGTH * COUNT)


def written(folder: Path, ids: np.ndarray, **changes) -> DataSection:
    rows = ids.reshape(COUNT, LENGTH).tolist()
    return DataSection(data_path=(write_documents(folder / "t", rows),), split="1,0,0", **changes)


@pytest.mark.parametrize("wrong", [500, 2**31 - 1, -1, -2])
def test_an_id_that_a_batch_meets(tmp_path: Path, ids: np.ndarray, wrong: int) -> None:
    data = written(tmp_path, ids)
    path = tmp_path / "t.bin"
    stored = np.fromfile(path, dtype="<i4")  # ml-data's writer refuses ids below 0
    stored[WRONG] = wrong
    stored.tofile(path)
    built = loaders(data, samples=(199, 0, 0), sequence_length=LENGTH, vocab_size=500)
    says = rf"t: document 1 holds the token id {wrong} at offset 800, but the model's .* 0 to 499"
    with pytest.raises(DataError, match=says):
        firsts(built.train, 199)


def test_processes_that_read_ahead_change_nothing_about_the_message(
    tmp_path: Path, ids: np.ndarray
) -> None:
    ids[WRONG] = 500
    data = written(tmp_path, ids, num_workers=1)
    built = loaders(data, samples=(199, 0, 0), sequence_length=LENGTH, vocab_size=500)
    with pytest.raises(DataError, match="document 1 holds the token id 500") as caught:
        firsts(built.train, 199)
    assert "Traceback" not in str(caught.value)


def test_a_wrong_tokenizer_is_seen_before_the_first_step(tmp_path: Path, ids: np.ndarray) -> None:
    ids[::50] += 500
    with pytest.raises(DataError, match="document 0 holds the token id .* at offset 0, but"):
        loaders(written(tmp_path, ids), sequence_length=LENGTH, vocab_size=500)


def test_ids_within_the_vocabulary_pass(tmp_path: Path, ids: np.ndarray) -> None:
    built = loaders(
        written(tmp_path, ids), samples=(199, 0, 0), sequence_length=LENGTH, vocab_size=500
    )
    assert len(firsts(built.train, 198)) == 198


def test_documents_of_several_sequences_count_their_offset_from_their_start(tmp_path: Path) -> None:
    # Megatron's sentence splitting writes several sequences a document.
    with IndexedDatasetWriter(tmp_path / "t", np.dtype("<i4")) as writer:
        writer.add_batch(np.arange(10), np.asarray([10]))
        writer.finalize()
    path = tmp_path / "t.idx"
    header = path.read_bytes()[:18]
    lengths = np.asarray([4, 3, 3], dtype="<i4")
    pointers = np.asarray([0, 16, 28], dtype="<i8")
    documents = np.asarray([0, 1, 1, 3], dtype="<i8")  # the second one is empty
    counts = np.asarray([3, 4], dtype="<u8")
    parts = (counts, lengths, pointers, documents)
    path.write_bytes(header + b"".join(part.tobytes() for part in parts))
    with pytest.raises(DataError, match="document 2 holds the token id 8 at offset 4"):
        loaders(DataSection(data_path=(str(tmp_path / "t"),), split="1,0,0"), vocab_size=8)


def test_the_last_label_is_looked_at(tmp_path: Path) -> None:
    data = DataSection(data_path=(write_documents(tmp_path / "t", [[1, 2, 3, 4, 9]]),), split="1")
    built = loaders(data, samples=(1, 0, 0), sequence_length=4, vocab_size=10)
    tokens, labels = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 3, 4, 9]])
    rows = {"dataset": built.train.dataset, "numbers": [0]}
    check_batch(tokens, labels, vocab_size=10, **rows)
    with pytest.raises(DataError, match="document 0 holds the token id 9 at offset 4"):
        check_batch(tokens, labels, vocab_size=9, **rows)
