"""Batches from real token files: order, resume, splits, blends, and what is refused."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from small_loaders import SEQUENCE, firsts, loaders
from token_files import write_tokens

from ml_train.config.sections.data import DataSection
from ml_train.data.files import read_token_files
from ml_train.errors import DataError

LENGTHS = [17, 40, 3, 25, 60, 9, 31, 12] * 5


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return write_tokens(tmp_path / "tokens", lengths=LENGTHS)


def test_a_batch_is_consecutive_tokens_with_labels_one_ahead(prefix: str) -> None:
    batch = next(loaders(DataSection(data_path=(prefix,), split="1,0,0")).train)
    assert {key: tuple(value.shape) for key, value in batch.items()} == dict.fromkeys(
        ("tokens", "labels", "loss_mask", "position_ids"), (2, SEQUENCE)
    )
    assert batch["tokens"][:, 1:].equal(batch["labels"][:, :-1])
    assert batch["loss_mask"].eq(1).all()
    assert batch["position_ids"][0].tolist() == list(range(SEQUENCE))


def test_the_global_batches_are_the_same_for_any_number_of_ranks(prefix: str) -> None:
    data = DataSection(data_path=(prefix,), split="1,0,0")
    alone = firsts(loaders(data).train, 64)
    assert len(set(alone)) > 50
    for size in (2, 4):
        parts = [iter(loaders(data, dp_rank=rank, dp_size=size).train) for rank in range(size)]
        # Micro batch m of the run goes to rank m % size, so the ranks in turn give it back.
        together = [row for _ in range(32 // size) for part in parts for row in firsts(part, 2)]
        assert together == alone
    larger = loaders(data, micro_batch_size=4)
    assert firsts(larger.train, 64) == alone


def test_resume_goes_on_where_the_run_stopped(prefix: str) -> None:
    data = DataSection(data_path=(prefix,), split="1,0,0")
    whole = firsts(loaders(data).train, 64)
    assert firsts(loaders(data, consumed=24).train, 40) == whole[24:]
    # With another number of data-parallel ranks as well.
    parts = [iter(loaders(data, consumed=24, dp_rank=r, dp_size=2).train) for r in (0, 1)]
    assert [row for _ in range(10) for part in parts for row in firsts(part, 2)] == whole[24:]


def test_reading_ahead_changes_nothing(prefix: str) -> None:
    data = DataSection(data_path=(prefix,), split="1,0,0")
    ahead = DataSection(data_path=(prefix,), split="1,0,0", num_workers=1, no_mmap_bin_files=True)
    assert firsts(loaders(ahead).train, 12) == firsts(loaders(data).train, 12)


def test_the_global_random_state_is_left_alone(prefix: str) -> None:
    import torch

    before = torch.get_rng_state()
    next(loaders(DataSection(data_path=(prefix,), split="1,0,0")).train)
    assert torch.get_rng_state().equal(before)


def test_the_seed_changes_the_order(prefix: str) -> None:
    data = DataSection(data_path=(prefix,), split="1,0,0")
    assert firsts(loaders(data, seed=8).train, 16) != firsts(loaders(data).train, 16)


def test_splits_share_no_document(prefix: str) -> None:
    data = DataSection(data_path=(prefix,), split="8,1,1")
    built = loaders(data, samples=(64, 8, 8))
    bounds = np.cumsum([0, *LENGTHS])
    train_end, valid_end = int(bounds[32]), int(bounds[36])
    for iterator, low, high in (
        (built.train, 0, train_end),
        (built.valid, train_end, valid_end),
        (built.test, valid_end, int(bounds[40])),
    ):
        tokens = [batch["tokens"] for batch in islice(iterator, 4)]
        assert all(low <= int(part.min()) and int(part.max()) < high for part in tokens)
    assert loaders(data).valid is None


def test_end_of_document_can_be_left_out_of_the_loss(prefix: str) -> None:
    eod = int(np.cumsum(LENGTHS)[4])
    data = DataSection(data_path=(prefix,), split="1,0,0", eod_mask_loss=True)
    batches = list(islice(loaders(data, eod_id=eod).train, 32))
    masked = sum(float((batch["loss_mask"] == 0).sum()) for batch in batches)
    assert masked == sum(float((batch["tokens"] == eod).sum()) for batch in batches) > 0
    with pytest.raises(DataError, match="--eod-mask-loss needs the end-of-document id"):
        loaders(data)


def share_of_second(data: DataSection) -> float:
    rows = firsts(loaders(data, samples=(400, 0, 0), vocab_size=200_000).train, 400)
    return sum(row >= 100_000 for row in rows) / len(rows)


def test_blends(tmp_path: Path) -> None:
    first = write_tokens(tmp_path / "one", lengths=[40] * 30)
    second = write_tokens(tmp_path / "two", lengths=[40] * 10, first=100_000)
    weighted = DataSection(data_path=("0.3", first, "0.7", second), split="1,0,0")
    assert share_of_second(weighted) == pytest.approx(0.7, abs=0.01)
    # Without weights each file counts by its tokens.
    plain = DataSection(data_path=(first, second), split="1,0,0")
    assert share_of_second(plain) == pytest.approx(0.25, abs=0.01)


def test_per_split_blends(tmp_path: Path) -> None:
    first = write_tokens(tmp_path / "one", lengths=[40] * 30)
    second = write_tokens(tmp_path / "two", lengths=[40] * 10, first=100_000)
    third = write_tokens(tmp_path / "three", lengths=[40] * 10, first=200_000)
    data = DataSection(train_data_path=(first,), valid_data_path=("1", second, "3", third))
    built = loaders(data, samples=(64, 80, 0), vocab_size=300_000)
    assert max(firsts(built.train, 40)) < 100_000
    valid = firsts(built.valid, 80)
    assert min(valid) >= 100_000
    assert sum(row >= 200_000 for row in valid) == 60
    with pytest.raises(DataError, match="give --test-data-path as well"):
        loaders(data, samples=(64, 0, 8))


def test_damaged_token_files(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(DataError, match="absent.idx does not exist. --data-path takes the prefix"):
        read_token_files(str(tmp_path / "absent"))
    whole = Path(f"{prefix}.bin").read_bytes()
    Path(f"{prefix}.bin").write_bytes(whole[:-8])
    with pytest.raises(DataError, match="holds 983 tokens, but its index describes 985"):
        read_token_files(prefix)
    Path(f"{prefix}.bin").write_bytes(whole)
    index = Path(f"{prefix}.idx").read_bytes()
    for bad in (b"x" * 50, index[:40], b""):
        Path(f"{prefix}.idx").write_bytes(bad)
        with pytest.raises(DataError, match=r"tokens\.idx .*Tokenize again"):
            read_token_files(prefix)
    empty = write_tokens(tmp_path / "empty", lengths=[])
    with pytest.raises(DataError, match="holds no tokens"):
        read_token_files(empty)


def test_what_the_loaders_refuse(prefix: str, tmp_path: Path) -> None:
    data = DataSection(data_path=(prefix,), split="999,1,0")
    with pytest.raises(DataError, match="leaves no document of .* for the valid split"):
        loaders(data, samples=(64, 8, 0))
    with pytest.raises(DataError, match="not divisible by micro batch size 2 x data-parallel"):
        loaders(data, dp_size=3)
    with pytest.raises(DataError, match="give --data-path PREFIX"):
        loaders(DataSection())
    (tmp_path / "file").touch()
    inside = DataSection(data_path=(prefix,), split="1,0,0", data_cache_path=f"{tmp_path}/file/x")
    with pytest.raises(DataError, match="Choose another directory with --data-cache-path"):
        loaders(inside)
