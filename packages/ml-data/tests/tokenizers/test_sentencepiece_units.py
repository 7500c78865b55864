"""The fast engine's edges: what it admits, bounds, errors, and the net below it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.model_facts import CONTROL, read_facts, with_control_tokens_in_text
from ml_data.tokenizers import load_tokenizer, sentencepiece_units, unit_table
from ml_data.tokenizers.sentencepiece_units import UnitTokenizer


def test_facts_equal_the_librarys(grok1: Path, train: Callable[..., Path]) -> None:
    for path in (grok1, train()):
        raw = path.read_bytes()
        facts = read_facts(raw)
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        size = processor.vocab_size()
        every = list(range(size))
        assert [piece.decode() for piece in facts.pieces] == processor.id_to_piece(every)
        assert [kind == CONTROL for kind in facts.types] == processor.is_control(every)
    changed = read_facts(with_control_tokens_in_text(grok1.read_bytes()))
    assert changed.pieces == read_facts(grok1.read_bytes()).pieces
    assert CONTROL not in changed.types


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram"}, "not a BPE"),
        ({"byte_fallback": False}, "byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "maps characters"),
        ({"remove_extra_whitespaces": True}, "removes spaces"),
        ({"treat_whitespace_as_suffix": True}, "suffix"),
    ],
)
def test_models_that_are_not_admitted(
    train: Callable[..., Path], options: dict[str, object], reason: str
) -> None:
    path = train(**options)
    with pytest.raises(TokenizerError, match=reason):
        load_tokenizer(path, engine="fast")
    tokenizer = load_tokenizer(path)
    assert tokenizer.engine_name == "sentencepiece"
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert tokenizer.encode_batch(["a  b"])[0].tolist() == reference.encode("a  b")


def test_long_texts_and_a_word_without_cuts(grok1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece_units, "WINDOW_BYTES", 1 << 12)
    tokenizer = UnitTokenizer(grok1)
    for text in ("some words, " * 3000, "\u4f60\u597d" * 5000, "a" * 20000, "\n" * 9999):
        ids, lengths = tokenizer.encode_arrow(pa.array(["x", text, "", "y"]))
        expected = [tokenizer.encode(text) for text in ("x", text, "", "y")]
        assert ids.tolist() == [number for part in expected for number in part]
        assert lengths.tolist() == [len(part) for part in expected]


def test_a_text_that_cannot_be_cut_is_refused(grok1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece_units, "WINDOW_BYTES", 1 << 8)
    monkeypatch.setattr(sentencepiece_units, "_LARGEST_WINDOW_BYTES", 1 << 10)
    with pytest.raises(TokenizerError, match="split it"):
        UnitTokenizer(grok1).encode_arrow(pa.array(["a" * 5000]))


def test_the_table_of_units_is_bounded(grok1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_table, "MOST_UNITS", 50)
    tokenizer = UnitTokenizer(grok1)
    for start in range(0, 2000, 100):
        words = [f"w{number:x}q number" for number in range(start, start + 100)]
        ids, _ = tokenizer.encode_arrow(pa.array(words))
        assert ids.tolist() == [number for word in words for number in tokenizer.encode(word)]
        assert len(tokenizer._units.table.codes) < 250


def test_threads_share_the_table(grok1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_table, "MOST_UNITS", 200)
    tokenizer = UnitTokenizer(grok1)

    def encode(seed: int) -> None:
        for step in range(30):
            words = [f"w{(seed * step + number) % 997:x}q and" for number in range(60)]
            ids, _ = tokenizer.encode_arrow(pa.array(words))
            assert ids.tolist() == [number for word in words for number in tokenizer.encode(word)]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(encode, range(1, 13)))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices_and_empty_values(grok1: Path, kind: pa.DataType) -> None:
    tokenizer = UnitTokenizer(grok1)
    texts = ["", "a", "", "two words", "", "\u4f60", ""]
    for start in range(len(texts) + 1):
        for stop in range(start, len(texts) + 1):
            ids, lengths = tokenizer.encode_arrow(pa.array(texts, kind)[start:stop])
            expected = [tokenizer.encode(text) for text in texts[start:stop]]
            assert lengths.tolist() == [len(part) for part in expected]
            assert ids.tolist() == [number for part in expected for number in part]


@pytest.mark.parametrize("engine", ["fast", "sentencepiece"])
def test_values_that_are_refused(grok1: Path, engine: str) -> None:
    tokenizer = load_tokenizer(grok1, engine=engine)
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")]
    )
    with pytest.raises(TokenizerError, match="1 of 2 values are null"):
        tokenizer.encode_arrow(pa.array(["a", None]))
    with pytest.raises(TokenizerError, match="not int64"):
        tokenizer.encode_arrow(pa.array([1]))
    with pytest.raises(TokenizerError, match="UTF-8"):
        tokenizer.encode_arrow(broken)
    for call in (tokenizer.encode, lambda text: tokenizer.encode_batch(["fine", text])):
        with pytest.raises(TokenizerError, match="lone surrogate '.ud800' at character 1"):
            call("a\ud800b")


def test_a_wrong_id_fails_loudly(grok1: Path) -> None:
    tokenizer = UnitTokenizer(grok1)
    values = pa.array(["hello world"] * 10)
    ids, lengths = tokenizer.encode_arrow(values)
    assert tokenizer.num_checked == 1
    assert tokenizer.check_sample(values, ids, lengths) == 1
    tokenizer._units.table._ids[:] += 1
    with pytest.raises(TokenizerError, match="other ids than SentencePiece.*'hello world'"):
        tokenizer.encode_arrow(values)
