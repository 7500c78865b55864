"""The fast engine against SentencePiece, text by text, over arbitrary Unicode."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_data.tokenizers import cuts, load_tokenizer, sentencepiece_units
from ml_data.tokenizers.sentencepiece_units import UnitTokenizer

CASES = Path(__file__).parents[1] / "data" / "grok1_cases.jsonl"
# Where engines were seen to differ: white space, prefixes, control strings, byte strings, pieces
# of symbols, U+2581 itself, combining and wide characters.
FRAGMENTS = [
    " ", "  ", " " * 16, " " * 17, "\n", "\n" * 10, "\n" * 11, "\t", "\t" * 8, "\t" * 9, "\r\n",
    "\x00", "\x0b", "\u2581", " \u2581", "\u2581 ", "\u2581\u2581", "\u00a0", "\u3000", "\ufeff",
    "[EOS]", "[PAD]", "[BOS]", "[UNK]", "[EO", "<s>", "</s>", "<unk>", "<0x0A>", "<0x", "0A>",
    "<|separator|>", "<|mask|>", "<|control1|>", "<|control20|>", "<|control2", "<|", "|>", "<|sep",
    "0", "9", "123", "1,000.5", "\u0663", "\u00bd", "hello", "Hello", "world", "it's", "don't",
    "na\u00efve", "e\u0301", "\u0301", "\u4f60\u597d", "\u65e5\u672c\u8a9e", "\u0e20\u0e32\u0e29",
    "\u043f\u0440\u0438\u0432\u0435\u0442", "\u0645\u0631\u062d\u0628\u0627", "\ud55c\uad6d",
    "\U0001f600", "\U0001f468\u200d\U0001f469", "\U0010ffff", "\U0010fffd", "\ue000", "\uf8ff",
    "\uffff", "\ufffd", "\u07ff", "\u0800", "\x7f", "\x80", "def f(x):", "    return", "://", "...",
    "xxxxxxxx", "------", "====", "{}", "();", "\\n", "'", '"', "\u201c", "\u2026", "A", "zq",
]  # fmt: skip
texts = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join),
    st.text(max_size=200),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=20).map("".join),
    st.text(st.sampled_from(" \n\t0a\u2581<|>[]e\u00e9\u4f60"), max_size=60),
)
batches = st.lists(texts, min_size=1, max_size=25)
RELAXED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


class Pair:
    """A fast tokenizer and the processor that defines what it must give."""

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        self.fast = UnitTokenizer(path, parse_special_tokens=parse_special_tokens)
        self.reference = sentencepiece.SentencePieceProcessor()
        self.reference.LoadFromSerializedProto(self.fast._raw)

    def check(self, given_texts: list[str]) -> None:
        """Fail unless every text gets SentencePiece's ids."""
        values = pa.array(given_texts, pa.string())
        ids, lengths = self.fast.encode_arrow(values)
        parts = np.split(ids, np.cumsum(lengths)[:-1])
        assert ids.dtype == lengths.dtype == np.int32
        assert len(parts) == len(given_texts)
        for text, got in zip(given_texts, parts, strict=True):
            assert got.tolist() == self.reference.encode(text), ascii(text)


@pytest.fixture(scope="module")
def pair(grok1: Path) -> Pair:
    return Pair(grok1)


@pytest.fixture(scope="module")
def special(grok1: Path) -> Pair:
    return Pair(grok1, parse_special_tokens=True)


@pytest.fixture(scope="module")
def trained(train: Callable[..., Path]) -> list[Pair]:
    """Small models: prefix or none, pieces across spaces, other symbols, many or few pieces."""
    return [
        Pair(train()),
        Pair(train(add_dummy_prefix=False)),
        Pair(train(split_by_whitespace=False, vocab_size=700)),
        Pair(train(split_by_whitespace=False, split_by_unicode_script=False, vocab_size=900)),
        Pair(train(user_defined_symbols=["a b", "ab", "\u2581x", "  ", "\u4f60\u597d", "\t\t"])),
        Pair(train(allow_whitespace_only_pieces=True, split_digits=True, vocab_size=340)),
        Pair(train(control_symbols=["[EOS]", "<|"]), parse_special_tokens=True),
    ]


@pytest.mark.parametrize("engine", ["fast", "sentencepiece"])
def test_the_reference_cases(grok1: Path, engine: str) -> None:
    tokenizer = load_tokenizer(grok1, engine=engine)
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    assert len(cases) == 452
    ids, lengths = tokenizer.encode_arrow(pa.array([case["text"] for case in cases]))
    for case, got in zip(cases, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
        assert got.tolist() == case["ids"], case["name"]


def test_every_fragment_beside_every_other(pair: Pair) -> None:
    pair.check([first + second for first in FRAGMENTS for second in FRAGMENTS])
    pair.check(["a" + first + second + "b" for first in FRAGMENTS for second in FRAGMENTS])


def test_every_piece_of_the_vocabulary(pair: Pair) -> None:
    pieces = [pair.reference.id_to_piece(index) for index in range(0, 131072, 7)]
    pair.check(pieces + [piece.replace("\u2581", " ") for piece in pieces])


@settings(max_examples=250, deadline=None, suppress_health_check=RELAXED)
@given(batches)
def test_arbitrary_text(pair: Pair, batch: list[str]) -> None:
    pair.check(batch)


@settings(max_examples=80, deadline=None, suppress_health_check=RELAXED)
@given(batches)
def test_arbitrary_text_with_special_tokens(special: Pair, batch: list[str]) -> None:
    special.check(batch)


@settings(max_examples=60, deadline=None, suppress_health_check=RELAXED)
@given(batches)
def test_arbitrary_text_on_other_models(trained: list[Pair], batch: list[str]) -> None:
    for pair in trained:
        pair.check(batch)


@settings(max_examples=80, deadline=None, suppress_health_check=RELAXED)
@given(batches, st.integers(1, 40), st.integers(4, 40))
def test_small_windows(pair: Pair, batch: list[str], window: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentencepiece_units, "WINDOW_BYTES", window)
        patch.setattr(cuts, "_BLOCK_BYTES", block)
        pair.check(batch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=20_000, deadline=None, suppress_health_check=RELAXED)
@given(batches)
def test_arbitrary_text_at_depth(pair: Pair, special: Pair, batch: list[str]) -> None:
    pair.check(batch)
    special.check(batch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=4_000, deadline=None, suppress_health_check=RELAXED)
@given(batches, st.integers(1, 40), st.integers(4, 40))
def test_other_models_and_windows_at_depth(
    trained: list[Pair], batch: list[str], window: int, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentencepiece_units, "WINDOW_BYTES", window)
        patch.setattr(cuts, "_BLOCK_BYTES", block)
        for pair in trained:
            pair.check(batch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_pair_of_characters_that_occur_in_pieces(pair: Pair) -> None:
    pieces = pair.reference.id_to_piece(list(range(325, 131072)))
    characters = sorted(set("".join(pieces)))
    for first in characters[:400]:
        pair.check([f"x{first}{second}y" for second in characters])
