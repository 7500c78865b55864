"""Tokenizers of the kinds that people have, against the tokenizers library called by itself."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from ml_data.tokenizers import load_tokenizer

from . import makers

TEXTS = [
    "the quick brown fox", " hello  two   spaces ", "a\n\nb\r\n\tc", "12345 1,000.5", "",
    "na\u00efve nai\u0308ve \u4f60\u597d\u4e16\u754c \U0001f600", "it's DON'T", "x" * 300,
    "<|endoftext|> </s> [SEP] <|im_start|>user<tool_call>", " ", "\u3042\u3044 \u00a0\u3000x",
]  # fmt: skip
KINDS = [
    makers.llama3, makers.qwen, makers.deepseek, makers.word_piece, makers.unigram,
    makers.byte_level,
]  # fmt: skip


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("parse", [False, True])
def test_ids_are_the_librarys(tmp_path: Path, make: Callable[[], Tokenizer], parse: bool) -> None:
    folder = makers.save(make(), tmp_path)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.encode_special_tokens = not parse
    tokenizer = load_tokenizer(folder, parse_special_tokens=parse)
    ids, lengths = tokenizer.encode_arrow(pa.array(TEXTS))
    expected = [reference.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] == expected
    assert [tokenizer.encode(text) for text in TEXTS] == expected
    assert tokenizer.vocab_size == max(reference.get_vocab().values()) + 1


@pytest.mark.parametrize(
    ("make", "before", "behind"),
    [
        (makers.llama3, ["<|begin_of_text|>"], []),
        (makers.deepseek, ["<\uff5cbegin\u2581of\u2581sentence\uff5c>"], []),
        (makers.word_piece, ["[CLS]"], ["[SEP]"]),
        (makers.unigram, [], ["</s>"]),
        (makers.qwen, [], []),
    ],
)
def test_what_stands_around_a_text_is_known(
    tmp_path: Path, make: Callable[[], Tokenizer], before: list[str], behind: list[str]
) -> None:
    tokenizer = load_tokenizer(makers.save(make(), tmp_path))
    frame = [[tokenizer.token_of(number) for number in ids] for ids in tokenizer.frame]
    assert frame == [before, behind]
    assert tokenizer.bos_id == (tokenizer.token_id(before[0]) if before else None)
    plain = tokenizer.encode("the cat")
    assert plain[:1] != list(tokenizer.frame[0]) or not before
