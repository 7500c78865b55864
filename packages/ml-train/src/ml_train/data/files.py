"""Token files by their content: sizes, hashes, and the documents that a split takes of them.

Everything that is kept from one start to the next (sample indexes, the position of a run in its
data) belongs to the content of a .bin/.idx pair, never to its path: the same prefix may hold other
documents tomorrow, and the same documents may move. The whole .idx is hashed, as it decides how
sequences are cut; of the .bin, which may be terabytes, 64 blocks spread over it are.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_data.errors import MlDataError
from ml_data.indexed import layout
from ml_data.indexed.reader import IndexedDataset
from ml_train.data.origin import check_ids
from ml_train.errors import DataError

_HASH_BYTES = 1 << 22
_BLOCKS, _BLOCK_TOKENS = 64, 1024


@dataclass(frozen=True, kw_only=True)
class TokenFiles:
    """A .bin/.idx pair: its sizes and its content."""

    prefix: str
    num_sequences: int
    num_tokens: int
    idx_sha256: str
    """Of the whole .idx."""
    bin_sha256: str
    """Of 64 blocks of the .bin."""


def open_token_files(prefix: str) -> IndexedDataset:
    """The reader of a pair whose .idx fits its .bin. Raises DataError."""
    for path in (layout.idx_path(prefix), layout.bin_path(prefix)):
        if not path.is_file():
            raise DataError(
                f"{path} does not exist. --data-path takes the prefix that ml-data tokenize "
                "printed, without .bin or .idx: usually OUTPUT_PREFIX_text_document."
            )
    try:
        tokens = IndexedDataset(prefix)
    except MlDataError as error:
        raise DataError(f"{error}. Tokenize again.") from error
    wanted = int(tokens.sequence_lengths.sum(dtype=np.int64))
    if wanted != tokens.num_tokens:
        raise DataError(
            f"{layout.bin_path(prefix)} holds {tokens.num_tokens} tokens, but its index describes "
            f"{wanted}: one of the two is damaged or of another run; tokenize again."
        )
    if wanted == 0:
        raise DataError(f"{layout.bin_path(prefix)} holds no tokens.")
    return tokens


def read_token_files(prefix: str, *, vocab_size: int | None = None) -> TokenFiles:
    """Sizes and hashes of a pair; the blocks that are hashed are held against the vocabulary.

    Raises DataError for files that are absent, damaged, or hold ids outside the vocabulary.
    """
    tokens = open_token_files(prefix)
    digest = hashlib.sha256()
    last = max(tokens.num_tokens - _BLOCK_TOKENS, 0)
    for start in sorted({last * block // (_BLOCKS - 1) for block in range(_BLOCKS)}):
        ids = tokens.tokens[start : start + _BLOCK_TOKENS]
        digest.update(ids.tobytes())
        check_ids(ids, prefix=prefix, first_token=start, vocab_size=vocab_size)
    return TokenFiles(
        prefix=prefix,
        num_sequences=len(tokens),
        num_tokens=tokens.num_tokens,
        idx_sha256=sha256_of(layout.idx_path(prefix)),
        bin_sha256=digest.hexdigest(),
    )


def tokens_in(prefix: str, first: int, end: int) -> int:
    """Tokens of the sequences first to end - 1 of a pair."""
    return int(IndexedDataset(prefix).sequence_lengths[first:end].sum(dtype=np.int64))


def sha256_of(path: Path) -> str:
    """Of a whole file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()
