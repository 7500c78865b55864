"""xAI's `tokenizer.tok.json`, the tokenizer file of the Grok-2 release.

| field | content |
|---|---|
| `regular_tokens` | items `{"bytes": [0..255, ...], "token": id}`; the id is also the merge rank |
| `special_tokens` | items of the same form, whose bytes are UTF-8 text |
| `word_split` | the name of the split pattern; "V1" is the only published name |
| `pat_str` | optional: a split pattern that replaces the named pattern |
| `vocab_size` | optional: the number of ids |
| `default_allowed_special` | optional: special tokens that xAI's own wrapper looks for in text |

Source of the fields and of the pattern: sgl-project/sglang,
python/sglang/srt/tokenizer/tiktoken_tokenizer.py @1e9501814062 (`PAT_STR_B`, `TiktokenTokenizer`).
xAI's own file was not available to test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.recognize import read_json_object

# Llama 3's and GPT-4's pattern, except that every digit is a unit of its own.
SPLIT_PATTERNS = {
    "V1": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
}
_REQUIRED = ("regular_tokens", "special_tokens", "word_split")
_OPTIONAL = ("pat_str", "vocab_size", "default_allowed_special")
# ml-data keeps ids as int32.
_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class TokJson:
    """The content of a checked file. `ranks` maps bytes to ids, `specials` texts to ids."""

    ranks: Mapping[bytes, int]
    specials: Mapping[str, int]
    pattern: str
    has_own_pattern: bool
    vocab_size: int | None
    allowed_by_default: tuple[str, ...]


def read_tok_json(path: Path) -> TokJson:
    """Read and check a file. Raises TokenizerError that names the field and the rule."""
    values = read_json_object(path)
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise TokenizerError(
            f"{path} lacks {', '.join(missing)}: it is no tokenizer.tok.json of the known version"
        )
    unknown = sorted(set(values) - {*_REQUIRED, *_OPTIONAL})
    if unknown:
        raise TokenizerError(
            f"{path} has the unknown fields {', '.join(unknown)}: it is of another version, whose "
            f"ids may differ; known are {', '.join((*_REQUIRED, *_OPTIONAL))}"
        )
    pattern = _pattern(values, path)
    regular = list(_tokens(values, "regular_tokens", path))
    special = [
        (_utf8(token, "special_tokens", path), number)
        for token, number in _tokens(values, "special_tokens", path)
    ]
    ranks, specials = dict(regular), dict(special)
    _refuse_twice("regular_tokens", [token for token, _ in regular], path)
    _refuse_twice("special_tokens", [text for text, _ in special], path)
    _refuse_twice("ids", [number for _, number in (*regular, *special)], path)
    _refuse_missing_bytes(ranks, path)
    return TokJson(
        ranks=ranks,
        specials=specials,
        pattern=pattern,
        has_own_pattern="pat_str" in values,
        vocab_size=_vocab_size(values, max((*ranks.values(), *specials.values())), path),
        allowed_by_default=_allowed_by_default(values, specials, path),
    )


def _pattern(values: Mapping[str, Any], path: Path) -> str:
    word_split = values["word_split"]
    # A pat_str does not excuse another version: SGLang refuses the name before it reads pat_str.
    if not isinstance(word_split, str) or word_split not in SPLIT_PATTERNS:
        raise TokenizerError(
            f"{path}: word_split is {word_split!r}: only {', '.join(SPLIT_PATTERNS)} is known, and "
            "another split gives other ids; a newer ml-data may know it"
        )
    pattern = values.get("pat_str", SPLIT_PATTERNS[word_split])
    if not isinstance(pattern, str):
        raise TokenizerError(
            f"{path}: pat_str is {pattern!r}: a regular expression is expected, or no pat_str"
        )
    return pattern


def _tokens(values: Mapping[str, Any], name: str, path: Path) -> Iterator[tuple[bytes, int]]:
    """(bytes, id) of the items of a field."""
    items = values[name]
    if not isinstance(items, list):
        raise TokenizerError(f"{path}: {name} is a {type(items).__name__}: a list is expected")
    for row, item in enumerate(items):
        if not isinstance(item, dict) or item.keys() != {"bytes", "token"}:
            raise TokenizerError(
                f"{path}: item {row} of {name} is {_short(item)}: an object of bytes and token is "
                "expected"
            )
        number = item["token"]
        if type(number) is not int or not 0 <= number <= _LARGEST_ID:
            raise TokenizerError(
                f"{path}: item {row} of {name} has the token {_short(number)}: an id from 0 to "
                f"{_LARGEST_ID} is expected"
            )
        yield _bytes(item["bytes"], f"item {row} of {name}", path), number


def _bytes(numbers: Any, where: str, path: Path) -> bytes:
    # JSON's true is an int to Python, and bytes(5) makes five zeros of a number.
    if isinstance(numbers, list) and set(map(type, numbers)) == {int}:
        try:
            return bytes(numbers)
        except ValueError:
            pass  # A number beyond 255: the message below says what is expected.
    raise TokenizerError(
        f"{path}: {where} has the bytes {_short(numbers)}: a list of numbers from 0 to 255 is "
        "expected"
    )


def _utf8(token: bytes, name: str, path: Path) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path}: {name} holds {_short(token)}: the bytes of a special token are UTF-8 text"
        ) from error


def _refuse_twice(name: str, values: list[Any], path: Path) -> None:
    if len(set(values)) < len(values):
        repeated, _ = Counter(values).most_common(1)[0]
        raise TokenizerError(
            f"{path}: {_short(repeated)} stands twice among its {name}: the file is damaged, as "
            "every token has an id of its own"
        )


def _refuse_missing_bytes(ranks: Mapping[bytes, int], path: Path) -> None:
    missing = [number for number in range(256) if bytes((number,)) not in ranks]
    if missing:
        raise TokenizerError(
            f"{path}: regular_tokens lacks {len(missing)} of the 256 single bytes (first: "
            f"{missing[0]}): a text that holds them would have no ids; the file is incomplete"
        )


def _vocab_size(values: Mapping[str, Any], highest: int, path: Path) -> int | None:
    size: int | None = values.get("vocab_size")
    if size is None and "vocab_size" not in values:
        return None
    if type(size) is not int or size <= highest:
        raise TokenizerError(
            f"{path}: vocab_size is {_short(size)}, and the highest id is {highest}: the size must "
            "be larger than every id"
        )
    return size


def _allowed_by_default(
    values: Mapping[str, Any], specials: Mapping[str, int], path: Path
) -> tuple[str, ...]:
    name = "default_allowed_special"
    items = values.get(name, [])
    if not isinstance(items, list):
        raise TokenizerError(f"{path}: {name} is a {type(items).__name__}: a list is expected")
    texts = tuple(
        _utf8(_bytes(item, f"item {row} of {name}", path), name, path)
        for row, item in enumerate(items)
    )
    for text in texts:
        if text not in specials:
            raise TokenizerError(f"{path}: {name} holds {text!r}, which is no special token of it")
    return texts


def _short(value: object) -> str:
    """A value for a message: at most 60 characters of it."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
