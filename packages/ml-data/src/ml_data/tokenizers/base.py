"""What all tokenizers of this package have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from ml_data.tokenizers.protocol import Frame, Ids, Role, TokenClaim, check_values
from ml_data.tokenizers.sample_check import compare_sample


class TokenizerBase:
    """The attributes of `protocol.Tokenizer`, as they are before any file is read.

    `_reference` encodes a text with the reference tokenizer of the file. It is None for an engine
    that is the reference tokenizer itself, which has nothing to compare its ids with.
    """

    engine_name: str
    releases_gil = False
    has_own_frame = False
    vocab_size: int
    fingerprint: str

    def __init__(self, path: str, *, parse_special_tokens: bool) -> None:
        self.path = path
        self.parse_special_tokens = parse_special_tokens
        self.notices: list[str] = []
        self.eod_id: int | None = None
        self.bos_id: int | None = None
        self.eod_fault = self.bos_fault = ""
        self.names_eod = False
        self.frame: Frame = (), ()
        self.own_claims: Mapping[Role, list[TokenClaim]] = {}
        self.default_claims: Mapping[Role, list[TokenClaim]] = {}
        self._reference: Callable[[str], list[int]] | None = None

    def own_frame(self) -> Frame:
        """Nothing: most files ask for no token around a text."""
        return (), ()

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        raise NotImplementedError

    def encode_arrow(self, values: pa.Array) -> tuple[Ids, Ids]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        return self.encode_batch(check_values(values).to_pylist())

    def check_sample(self, values: pa.Array, ids: Ids, lengths: Ids) -> int:
        """Compare one text in a thousand, at least one, with the reference; how many it were."""
        if self._reference is None:
            return 0
        return compare_sample(self.engine_name, self._reference, values, ids, lengths)
