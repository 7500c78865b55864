"""Layout of Megatron's .bin/.idx pair, little endian.

| offset in .idx | bytes | field |
|---|---|---|
| 0 | 9 | magic `MMIDIDX\\0\\0` |
| 9 | 8 | version, u64, 1 |
| 17 | 1 | dtype code, u8: int32 4, uint16 8 |
| 18 | 8 | S, number of sequences, u64 |
| 26 | 8 | D, number of documents + 1, u64 |
| 34 | 4 S | sequence lengths in tokens, i32 |
| 34 + 4 S | 8 S | byte offset of each sequence in .bin, i64 |
| 34 + 12 S | 8 D | sequence index at which each document starts, i64, first 0, last S |

The .bin holds the ids alone. Source: megatron-core `core/datasets/indexed_dataset.py`.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ml_data.errors import FormatError, OutputError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPE_OF_CODE: dict[int, np.dtype] = {
    1: np.dtype("<u1"), 2: np.dtype("<i1"), 3: np.dtype("<i2"), 4: np.dtype("<i4"),
    5: np.dtype("<i8"), 6: np.dtype("<f8"), 7: np.dtype("<f4"), 8: np.dtype("<u2"),
}  # fmt: skip
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}
# Megatron uses uint16 below this number of ids, which leaves room for special tokens.
UINT16_LIMIT = 65_500


def best_dtype(vocab_size: int) -> np.dtype:
    """Megatron's choice: uint16 below 65,500 ids, else int32."""
    return np.dtype("<u2") if vocab_size < UINT16_LIMIT else np.dtype("<i4")


def token_dtype(dtype: object) -> np.dtype:
    """`dtype` as the little-endian type of a .bin; OutputError where ids cannot be of it."""
    try:
        kind = np.dtype(dtype).newbyteorder("<")  # type: ignore[call-overload]
    except TypeError as error:
        raise OutputError(f"dtype {dtype!r} is none of numpy: {error}") from error
    if kind.kind not in "iu" or kind not in CODE_OF_DTYPE:
        known = ", ".join(kind.name for kind in CODE_OF_DTYPE if kind.kind in "iu")
        raise OutputError(f"dtype {kind.name}: the format knows {known} for ids")
    return kind


def bin_path(prefix: str | Path) -> Path:
    """`prefix` plus `.bin`; a dot in the prefix is kept."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    """`prefix` plus `.idx`."""
    return Path(f"{prefix}.idx")


def manifest_path(prefix: str | Path) -> Path:
    """`prefix` plus `.json`."""
    return Path(f"{prefix}.json")


def idx_bytes(num_sequences: int, num_document_indices: int) -> int:
    """Size of an .idx with these counts in its header."""
    return HEADER.size + 12 * num_sequences + 8 * num_document_indices


def pack_header(dtype: np.dtype, num_sequences: int, num_document_indices: int) -> bytes:
    """The 34 bytes at the start of an .idx."""
    return HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[dtype], num_sequences, num_document_indices)


def unpack_header(raw: bytes, path: Path) -> tuple[np.dtype, int, int]:
    """(dtype, number of sequences, number of document indices) of the .idx at `path`.

    Raises FormatError where the header is not that of an .idx which this package reads.
    """
    if len(raw) < HEADER.size:
        raise FormatError(f"{path} has {len(raw)} bytes; an .idx has at least {HEADER.size}")
    magic, version, code, num_sequences, num_documents = HEADER.unpack(raw[: HEADER.size])
    if magic != MAGIC:
        raise FormatError(f"{path} does not start with Megatron's MMIDIDX mark: not an .idx file")
    if version != VERSION:
        raise FormatError(f"{path} has format version {version}; this reader knows {VERSION}")
    if code not in DTYPE_OF_CODE:
        raise FormatError(f"{path} has dtype code {code}; known: {sorted(DTYPE_OF_CODE)}")
    return DTYPE_OF_CODE[code], num_sequences, num_documents
