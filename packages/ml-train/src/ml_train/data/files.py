"""Token files by their content: sizes and hashes.

What is kept for later starts (sample indexes, the position of a run in its data) belongs to the
content of a .bin/.idx pair and not to its path: the same prefix may hold other documents tomorrow,
and the same documents may move. The whole .idx is hashed, as it decides how sequences are cut. The
.bin may have terabytes, so 64 blocks spread evenly over it are hashed.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from ml_data.errors import MlDataError
from ml_data.indexed import layout
from ml_data.indexed.reader import IndexedDataset
from ml_models.files.hashes import sha256_of
from ml_train.data.origin import check_ids
from ml_train.errors import DataError

_NUM_BLOCKS, _BLOCK_TOKENS = 64, 1024


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
    # The lengths are int32, whose sum overflows beyond 2^31 tokens.
    described = int(tokens.sequence_lengths.sum(dtype=np.int64))
    if described != tokens.num_tokens:
        raise DataError(
            f"{layout.bin_path(prefix)} holds {tokens.num_tokens} tokens, but its index describes "
            f"{described}: one of the two is damaged or of another run; tokenize again."
        )
    if described == 0:
        raise DataError(f"{layout.bin_path(prefix)} holds no tokens.")
    return tokens


def read_token_files(prefix: str, *, vocab_size: int | None = None) -> TokenFiles:
    """Sizes and hashes of a pair; ids of the hashed blocks are checked against the vocabulary.

    Raises DataError for files that are absent, damaged, or hold ids outside the vocabulary.
    """
    tokens = open_token_files(prefix)
    digest = hashlib.sha256()
    last = max(tokens.num_tokens - _BLOCK_TOKENS, 0)
    # A set, as the blocks of a small file overlap.
    for start in sorted({last * block // (_NUM_BLOCKS - 1) for block in range(_NUM_BLOCKS)}):
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
