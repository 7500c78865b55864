"""What a tokenizer of this package offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Tokenizer(Protocol):
    """Text to ids and back; rebuilt from its path in each worker."""

    path: str
    engine_name: str
    vocab_size: int
    eod_id: int | None
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        ...


def flatten(ids: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(flat ids, lengths) of a list of lists."""
    lengths = np.fromiter((len(one) for one in ids), np.int32, len(ids))
    flat = np.fromiter((token for one in ids for token in one), np.int32, int(lengths.sum()))
    return flat, lengths
