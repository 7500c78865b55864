"""A `tokenizer.model`: SentencePiece itself, which is the truth for such a file.

User-defined symbols in text are symbols; control tokens such as `[EOS]` in text stay text, unless
`parse_special_tokens` asks for them: then they count as user-defined symbols do.
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
from ml_data.tokenizers.model_facts import with_control_tokens_in_text
from ml_data.tokenizers.protocol import check_text, check_values, flatten


class SentencePieceTokenizer:
    """SentencePiece over one model file."""

    engine_name = "sentencepiece"
    releases_gil = False

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        self.path = str(path)
        self.parse_special_tokens = parse_special_tokens
        raw = path.read_bytes()
        self._processor = load_processor(raw, path)
        self.fingerprint = hashlib.sha256(raw).hexdigest()
        self.vocab_size: int = self._processor.vocab_size()
        eod = self._processor.eos_id()
        self.eod_id: int | None = eod if eod >= 0 else None
        if parse_special_tokens:
            raw = with_control_tokens_in_text(raw)
            self._processor = load_processor(raw, path)
        self._raw = raw

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        check_text(text)
        ids: list[int] = self._processor.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        for text in texts:
            check_text(text)
        return flatten(self._processor.encode(list(texts), num_threads=1))

    def encode_arrow(self, values: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        texts = check_values(values).to_pylist()
        return flatten(self._processor.encode(texts, num_threads=1))

    def check_sample(
        self, values: pa.Array, ids: NDArray[np.int32], lengths: NDArray[np.int32]
    ) -> int:
        """This engine is the truth: nothing to compare."""
        return 0

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        text: str = self._processor.decode([int(one) for one in ids])
        return text


def load_processor(raw: bytes, path: Path) -> sentencepiece.SentencePieceProcessor:
    """The processor over a serialized model; TokenizerError when it is not one."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(raw)
    except RuntimeError as error:
        raise TokenizerError(
            f"{path} is not a SentencePiece model: give the tokenizer.model of the release"
        ) from error
    return processor
