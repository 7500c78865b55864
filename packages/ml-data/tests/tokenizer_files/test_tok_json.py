"""Grok-2's tokenizer.tok.json: what of it is refused, and why."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.recognize import is_tok_json_file
from ml_data.tokenizer_files.tok_json import read_tok_json

from ..tokenizers import makers

MADE = makers.grok2()


def write(folder: Path, content: Any, name: str = "tokenizer.tok.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_every_field_is_read(tmp_path: Path) -> None:
    content = MADE | {"pat_str": r"\s+|\S+", "default_allowed_special": [list(b"<|eos|>")]}
    file = read_tok_json(write(tmp_path, content))
    assert file.specials["<|eos|>"] == 2
    assert file.ranks[b"a"] == next(
        item["token"] for item in MADE["regular_tokens"] if item["bytes"] == [97]
    )
    assert len(file.ranks) + len(file.specials) == file.vocab_size
    assert (file.pattern, file.has_own_pattern) == (r"\s+|\S+", True)
    assert file.allowed_by_default == ("<|eos|>",)
    assert not read_tok_json(write(tmp_path, MADE)).has_own_pattern


def changed(field: str, row: int | None, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(MADE)
    if row is None:
        content[field] = value
    else:
        content[field][row] = value
    return content


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in MADE.items() if name not in names}


REGULAR, SPECIAL = "regular_tokens", "special_tokens"
REFUSED = [
    (without("word_split"), "lacks word_split: it is no tokenizer.tok.json"),
    (without(REGULAR, SPECIAL), "lacks regular_tokens, special_tokens"),
    (MADE | {"normalizer": None, "version": 2}, "unknown fields normalizer, version"),
    (MADE | {"word_split": "V2"}, "word_split is 'V2': only V1 is known"),
    (MADE | {"word_split": "V2", "pat_str": "."}, "word_split is 'V2'"),
    (MADE | {"word_split": ["V1"]}, r"word_split is \['V1'\]"),
    (MADE | {"pat_str": None}, "pat_str is None: a regular expression"),
    (MADE | {REGULAR: {"a": 1}}, "regular_tokens is a dict: a list"),
    (changed(REGULAR, 3, {"token": 8}), "item 3 of regular_tokens is .*bytes and token"),
    (changed(REGULAR, 3, {"bytes": [1], "token": 8, "x": 0}), "item 3 .*bytes and token"),
    (changed(REGULAR, 3, {"bytes": [1], "token": -1}), "item 3 .*the token -1: an id from 0"),
    (changed(REGULAR, 3, {"bytes": [1], "token": 1 << 31}), "token 2147483648: an id"),
    (changed(REGULAR, 3, {"bytes": [1], "token": True}), "the token True"),
    (changed(REGULAR, 3, {"bytes": [1], "token": "8"}), "the token '8'"),
    (changed(REGULAR, 3, {"bytes": [], "token": 8}), r"the bytes \[\]: a list of numbers"),
    (changed(REGULAR, 3, {"bytes": [256], "token": 8}), r"the bytes \[256\]"),
    (changed(REGULAR, 3, {"bytes": [1.5], "token": 8}), r"the bytes \[1.5\]"),
    (changed(REGULAR, 3, {"bytes": 3, "token": 8}), "the bytes 3"),
    (changed(SPECIAL, 1, {"bytes": [255], "token": 1}), "special_tokens holds .*UTF-8 text"),
    (changed(REGULAR, 3, {"bytes": [1, 2], "token": 2}), "2 stands twice among its ids"),
    (
        changed(REGULAR, 300, {"bytes": [97], "token": 305}),
        "b'a' stands twice among its regular_tokens",
    ),
    (
        changed(SPECIAL, 1, {"bytes": list(b"<|eos|>"), "token": 1}),
        r"'<\|eos\|>' stands twice among its special_tokens",
    ),
    (changed(REGULAR, 3, {"bytes": [9, 9, 9, 9], "token": 8}), "lacks 1 of the 256 single bytes"),
    (MADE | {"vocab_size": 40}, "vocab_size is 40, and the highest id is 347"),
    (MADE | {"vocab_size": None}, "vocab_size is None"),
    (MADE | {"default_allowed_special": "<|eos|>"}, "default_allowed_special is a str"),
    (MADE | {"default_allowed_special": [[97]]}, "holds 'a', which is no special token"),
    ([1], "holds a JSON list"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(TokenizerError, match=message) as caught:
        read_tok_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.tok.json"
    path.write_text(json.dumps(MADE)[:-100])
    with pytest.raises(TokenizerError, match="is not JSON: "):
        read_tok_json(path)


def test_it_is_recognised_by_name_or_content(tmp_path: Path) -> None:
    assert is_tok_json_file(write(tmp_path, {}))
    assert is_tok_json_file(write(tmp_path, MADE, "renamed.json"))
    folder = makers.save(makers.qwen(), tmp_path / "hf")
    assert not is_tok_json_file(folder / "tokenizer.json")
    assert not is_tok_json_file(tmp_path / "absent.json")
