"""A `tokenizer.json`: the `tokenizers` library, which is the truth for such a file.

Special tokens in text stay text, unless `parse_special_tokens` asks for them; other added tokens
always count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray

from ml_data.errors import TokenizerError
from ml_data.tokenizers.protocol import check_text, check_values, flatten


class HuggingFaceTokenizer:
    """The `tokenizers` library over one tokenizer.json, without added special tokens."""

    engine_name = "tokenizers"
    releases_gil = True

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        self.path = str(path)
        self.parse_special_tokens = parse_special_tokens
        raw = path.read_bytes()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(raw)
        except Exception as error:
            raise TokenizerError(f"{path} is not a tokenizer.json: {error}") from error
        self._tokenizer.encode_special_tokens = not parse_special_tokens
        self.fingerprint = hashlib.sha256(raw).hexdigest()
        self.vocab_size = self._tokenizer.get_vocab_size()
        self.eod_id = self._end_of_document(path)

    def _end_of_document(self, path: Path) -> int | None:
        config = path.with_name("tokenizer_config.json")
        if not config.is_file():
            return None
        token = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
        if isinstance(token, dict):
            token = token.get("content")
        return self._tokenizer.token_to_id(token) if token else None

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        check_text(text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        for text in texts:
            check_text(text)
        done = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return flatten([one.ids for one in done])

    def encode_arrow(self, values: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        return self.encode_batch(check_values(values).to_pylist())

    def check_sample(
        self, values: pa.Array, ids: NDArray[np.int32], lengths: NDArray[np.int32]
    ) -> int:
        """This engine is the truth: nothing to compare."""
        return 0

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        text: str = self._tokenizer.decode([int(one) for one in ids], skip_special_tokens=False)
        return text
