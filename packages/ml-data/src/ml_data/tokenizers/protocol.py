"""What a tokenizer of this package offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_data.errors import TokenizerError

Ids = NDArray[np.int32]
"""Token ids, or numbers of them: how many each text has."""
Frame = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids in front of a text and behind it."""
Role = Literal["eos", "bos"]
"""What a token is for: `eos` ends a document, `bos` begins a text."""


@dataclass(frozen=True, kw_only=True)
class TokenClaim:
    """What a file says about a token: its text, or the ids that it may have."""

    source: str
    text: str | None = None
    ids: tuple[int, ...] = ()

    def __str__(self) -> str:
        what = repr(self.text) if self.text is not None else ", ".join(map(str, self.ids))
        return f"{self.source} says {what}"


class Vocabulary(Protocol):
    """Tokens and their ids."""

    path: str

    def token_id(self, token: str) -> int | None:
        """Id of the token with exactly this text."""
        ...

    def token_of(self, token_id: int) -> str | None:
        """Text of the token with this id; None where there is none."""
        ...


class Tokenizer(Vocabulary, Protocol):
    """Text to ids and back. Each worker process builds its own from the path.

    The reference tokenizer of a file is the library that the file was made for: SentencePiece for
    a tokenizer.model, tokenizers for a tokenizer.json. Every engine gives the ids of the reference
    tokenizer. An engine that is not the reference itself compares a sample of each batch with it
    (`check_sample`, which `encode_arrow` calls).

    - `engine_name`: what encodes.
    - `releases_gil`: whether several threads of one process encode faster than a single thread.
    - `vocab_size`: the highest id plus 1; ids without a token count.
    - `eod_id`, `bos_id`: None where no single id is known; `eod_fault` and `bos_fault` say why.
    - `names_eod`: whether some file names an end-of-document token, usable or not.
    - `own_claims`: what the model's own file says about a token.
    - `default_claims`: what counts where no file says anything.
    - `frame`: the ids that the tokenizer's library puts around a text; `encode` leaves them out.
    - `has_own_frame`: whether the model's own file states the frame.
    - `notices`: sentences for the user.
    """

    engine_name: str
    releases_gil: bool
    vocab_size: int
    eod_id: int | None
    eod_fault: str
    names_eod: bool
    bos_id: int | None
    bos_fault: str
    frame: Frame
    has_own_frame: bool
    notices: list[str]
    fingerprint: str
    own_claims: Mapping[Role, list[TokenClaim]]
    default_claims: Mapping[Role, list[TokenClaim]]

    def own_frame(self) -> Frame:
        """Ids that the model's own file asks for in front of and behind a text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        ...

    def encode_arrow(self, values: pa.Array) -> tuple[Ids, Ids]:
        """Like `encode_batch`, of a string or large_string array without nulls."""
        ...

    def check_sample(self, values: pa.Array, ids: Ids, lengths: Ids) -> int:
        """Compare a few texts of an encoded batch with the reference; how many were compared.

        0 where the engine is the reference tokenizer. Raises TokenizerError naming the first text
        that differs.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        ...


def flatten(ids: list[list[int]]) -> tuple[Ids, Ids]:
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
