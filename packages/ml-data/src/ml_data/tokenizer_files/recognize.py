"""Read a tokenizer's file, and say by its first bytes what it holds: names are often wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ml_data.errors import TokenizerError

TOK_JSON = "tokenizer.tok.json"
TRANSFORMERS_EXTRA = "pip install 'ml-data[transformers]'"
# Vocabularies that transformers reads where neither tokenizer.model nor tokenizer.json is usable.
VOCABULARY_FILES = (
    "vocab.json", "merges.txt", "vocab.txt", "*.tiktoken", "*.model", "*.spm", "*.bpe",
    "bpe.codes", "dict.txt", "vocab", "tekken.json",
)  # fmt: skip
# A token in base64, a space, its rank.
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
# The first key of a tokenizer.tok.json. A tokenizer.json has none of these fields.
_TOK_JSON = re.compile(
    rb"(\xef\xbb\xbf)?\s*\{\s*\"(regular_tokens|special_tokens|word_split|default_allowed_special)\""
)
_LFS = b"version https://git-lfs.github.com/spec/"


def is_tiktoken(raw: bytes) -> bool:
    """Whether these are tiktoken's lines: a token in base64, a space, its rank."""
    return _TIKTOKEN_LINE.match(raw) is not None


def is_tiktoken_file(path: Path) -> bool:
    """`is_tiktoken` of the start of a file; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return is_tiktoken(file.read(4096))
    except OSError:
        return False


def is_tok_json_file(path: Path) -> bool:
    """Whether this is xAI's tokenizer.tok.json, by its name or its first field."""
    if path.name.endswith(TOK_JSON):
        return True
    try:
        with path.open("rb") as file:
            return _TOK_JSON.match(file.read(256)) is not None
    except OSError:
        return False


def read_file(path: Path) -> bytes:
    """The bytes of a tokenizer's file; TokenizerError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}") from error


def refuse_lfs_pointer(raw: bytes, path: Path) -> None:
    """Raise TokenizerError for a pointer of Git LFS, which takes the place of a large file."""
    if raw.startswith(_LFS):
        raise TokenizerError(
            f"{path} is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'"
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; a byte order mark is skipped. Raises TokenizerError."""
    raw = read_file(path)
    refuse_lfs_pointer(raw, path)
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: save it as UTF-8 ({error})") from error
    except json.JSONDecodeError as error:
        raise TokenizerError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno} (often "
            "a comma before a closing bracket): correct it, as it may say what the ids mean"
        ) from error
    except RecursionError as error:
        raise TokenizerError(f"{path} is nested too deeply for a tokenizer's file") from error
    if not isinstance(value, dict):
        raise TokenizerError(
            f"{path} holds a JSON {type(value).__name__}, an object is expected: correct it, or "
            "move the tokenizer to a folder without it"
        )
    return value


def vocabulary_files(folder: Path) -> list[Path]:
    """Files of a folder that only transformers can read, by name."""
    matches = {path for name in VOCABULARY_FILES for path in folder.glob(name) if path.is_file()}
    return sorted(matches)


def why_not_sentencepiece(raw: bytes, path: Path) -> str:
    """A sentence on a tokenizer.model that SentencePiece cannot read."""
    refuse_lfs_pointer(raw, path)
    if not raw:
        return f"{path} is empty: copy the tokenizer again"
    if is_tiktoken(raw):
        return (
            f"{path} is a tiktoken file (lines of base64 and a rank, as in Llama 3's original/ "
            "folder), not a SentencePiece model: give the tokenizer.json of the same release, or "
            f"the folder with --engine transformers ({TRANSFORMERS_EXTRA})"
        )
    if raw.lstrip()[:1] in (b"{", b"["):
        return f"{path} is JSON, not a SentencePiece model: is it a tokenizer.json?"
    return f"{path} is not a SentencePiece model: give the tokenizer.model of the release"
