"""A `tokenizer.model`: SentencePiece itself, which is the truth for such a file.

User-defined symbols in text are symbols; control tokens such as `[EOS]` in text stay text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import sentencepiece
from numpy.typing import NDArray

from ml_data.errors import TokenizerError
from ml_data.tokenizers.protocol import flatten


class SentencePieceTokenizer:
    """SentencePiece over one model file."""

    engine_name = "sentencepiece"
    releases_gil = False

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        raw = path.read_bytes()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(raw)
        except RuntimeError as error:
            raise TokenizerError(
                f"{path} is not a SentencePiece model: give the tokenizer.model of the release"
            ) from error
        self.fingerprint = hashlib.sha256(raw).hexdigest()
        self.vocab_size: int = self._processor.vocab_size()
        eod = self._processor.eos_id()
        self.eod_id: int | None = eod if eod >= 0 else None

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        return flatten(self._processor.encode(list(texts), num_threads=1))

    def encode_arrow(self, values: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        return self.encode_batch(values.to_pylist())

    def check_sample(
        self, values: pa.Array, ids: NDArray[np.int32], lengths: NDArray[np.int32]
    ) -> int:
        """This engine is the truth: nothing to compare."""
        return 0

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        text: str = self._processor.decode([int(one) for one in ids])
        return text
