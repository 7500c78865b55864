"""What a tokenizer of this package offers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_data.errors import TokenizerError


class Tokenizer(Protocol):
    """Text to ids and back; rebuilt from its path in each worker.

    `engine_name` says what encodes; `releases_gil`, whether threads of one process gain from
    `encode_arrow`. Every engine gives the truth's ids; one that is not itself the truth holds a
    sample of each batch to the truth (`check_sample`, called by `encode_arrow`).
    """

    path: str
    engine_name: str
    releases_gil: bool
    vocab_size: int
    eod_id: int | None
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        ...

    def encode_arrow(self, values: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Like `encode_batch`, of a string or large_string array without nulls."""
        ...

    def check_sample(
        self, values: pa.Array, ids: NDArray[np.int32], lengths: NDArray[np.int32]
    ) -> int:
        """Hold a few texts of an encoded batch to the truth; how many were compared.

        Raises TokenizerError naming the first text that differs. 0 where the engine is the truth.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        ...


def flatten(ids: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(flat ids, lengths) of a list of lists."""
    lengths = np.fromiter(map(len, ids), np.int32, len(ids))
    flat = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum(dtype=np.int64)))
    return flat, lengths


def check_text(text: str) -> None:
    """Raise TokenizerError for a text with lone surrogates: it has no UTF-8 form, so no ids."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"text {shorten(text)} holds the lone surrogate {text[error.start]!r} at character "
            f"{error.start}: it is not Unicode text; replace it first, e.g. with "
            "text.encode(errors='replace').decode()"
        ) from error


def check_values(values: pa.Array) -> pa.Array:
    """`values` as string or large_string, checked: without nulls, and UTF-8."""
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise TokenizerError(f"encode_arrow takes string or large_string values, not {kind}")
    if values.null_count:
        raise TokenizerError(
            f"encode_arrow takes no nulls, and {values.null_count} of {len(values)} values are "
            "null: drop them first, e.g. with values.drop_null()"
        )
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise TokenizerError(f"values are not UTF-8 text: {error}") from error
    return values


def shorten(text: str, limit: int = 120) -> str:
    """`text` for a message: escaped, at most `limit` characters of it."""
    return ascii(text) if len(text) <= limit else f"{ascii(text[:limit])}... ({len(text)} chars)"
