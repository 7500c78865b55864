"""The base of the engines that encode a `tokenizer.model` faster than SentencePiece does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml_data.arrow import strings
from ml_data.tokenizers.protocol import Ids, check_text
from ml_data.tokenizers.sentencepiece_model import SentencePieceTokenizer


class SampledEngine(SentencePieceTokenizer):
    """An engine that takes Arrow strings and compares a sample of each batch with SentencePiece.

    `num_checked` counts the texts that were compared.
    """

    releases_gil = True

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        super().__init__(path, parse_special_tokens=parse_special_tokens)
        self._reference = self._processor.encode
        self.num_checked = 0

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        for text in texts:
            check_text(text)
        return self.encode_arrow(strings([text.encode() for text in texts]))
