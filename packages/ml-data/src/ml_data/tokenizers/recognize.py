"""What a tokenizer's file holds, by its first bytes: names are often wrong."""

from __future__ import annotations

import re
from pathlib import Path

from ml_data.errors import TokenizerError

TRANSFORMERS_EXTRA = "pip install 'ml-data[transformers]'"
# Vocabularies that transformers reads where neither tokenizer.model nor tokenizer.json is usable.
VOCABULARY_FILES = (
    "vocab.json", "merges.txt", "vocab.txt", "*.tiktoken", "*.model", "*.spm", "*.bpe",
    "bpe.codes", "dict.txt", "vocab", "tekken.json",
)  # fmt: skip
# A token in base64, a space, its rank.
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
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
