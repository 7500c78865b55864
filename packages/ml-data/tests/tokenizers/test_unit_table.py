"""Units looked up by number: never a wrong id, whatever shares a slot."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml_data.tokenizers import unit_table
from ml_data.tokenizers.sentencepiece_units import UnitTokenizer
from ml_data.tokenizers.unit_table import UnitKeys, _numbers_of

LONG = "abcdefghijklmnopqrst"
WORDS = [
    *(LONG[:size] for size in range(1, 20)), *(LONG[:8] + letter for letter in "xyz"),
    "\x00", "\x00a", "a\x00", "a", "\x00\x00", "\u4f60\u597d", "\u4f60\u597d\u4e16", "\U0001f600",
    "\xff", "\u07ff" * 4, "\u07ff" * 5,
]  # fmt: skip


def test_numbers_tell_all_units_apart() -> None:
    units = sorted({word.encode() for word in WORDS})
    text = np.frombuffer(b"".join(units) + b"." * 16, np.uint8)
    sizes = [len(unit) for unit in units]
    positions = np.concatenate(([0], np.cumsum(sizes), [len(text)])).astype(np.int32)
    keys = UnitKeys(text, positions)
    tails = np.zeros(len(keys.heads), np.uint64)
    tails[keys.full_rows] = keys.tails
    seen = list(zip(keys.heads.tolist(), tails.tolist(), strict=True))[:-1]
    assert seen == [_numbers_of(unit) if len(unit) <= 16 else (0, 0) for unit in units]
    with_key = [numbers for numbers in seen if numbers[0]]
    assert (
        len(set(with_key))
        == len(with_key)
        == sum(len(unit) <= 16 and 0 not in unit for unit in units)
    )


@pytest.mark.parametrize("size", [0, 1, 7, 15, 16, 17])
def test_short_texts_and_ends(size: int) -> None:
    text = np.frombuffer(b"a" * size, np.uint8)
    keys = UnitKeys(text, np.arange(size + 1, dtype=np.int32))
    assert len(keys.heads) == size
    # What cannot be read at once has no key, and goes through the dictionary.
    assert np.count_nonzero(keys.heads) == max(0, size - 15)


@pytest.mark.parametrize("bits", [1, 4, 20])
def test_units_that_share_a_slot_get_their_own_ids(
    grok1: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    monkeypatch.setattr(unit_table, "_SLOT_BITS", bits)
    tokenizer = UnitTokenizer(grok1)
    texts = [" ".join(WORDS[start:] + WORDS[:start]) for start in range(len(WORDS))] * 2
    for _ in range(3):
        ids, lengths = tokenizer.encode_arrow(pa.array(texts))
        parts = np.split(ids, np.cumsum(lengths)[:-1])
        for text, part in zip(texts, parts, strict=True):
            assert part.tolist() == tokenizer.encode(text), ascii(text)
