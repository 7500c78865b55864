"""What a tokenizer of this package offers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


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
