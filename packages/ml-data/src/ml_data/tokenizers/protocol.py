"""What a tokenizer of this package offers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_data.errors import TokenizerError

if TYPE_CHECKING:
    from ml_data.tokenizers.side_files import Claim

Frame = tuple[tuple[int, ...], tuple[int, ...]]


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
    """Text to ids and back; rebuilt from its path in each worker.

    `engine_name` says what encodes; `releases_gil`, whether threads of one process gain from
    `encode_arrow`. Every engine gives the truth's ids; one that is not itself the truth holds a
    sample of each batch to the truth (`check_sample`, called by `encode_arrow`).

    `vocab_size` is the highest id plus one, so it counts holes. `eod_id` and `bos_id` are None
    where no single id is known; `eod_fault` and `bos_fault` say why; `names_eod` is True where some
    file names an end-of-document token, usable or not. `frame` holds the ids that
    the tokenizer's own library puts in front of and behind a text; `encode` leaves them away.
    `notices` are sentences for the user.
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

    def own_claims(self, role: str) -> list[Claim]:
        """What the model's own file says about the token `eos` or `bos`."""
        ...

    def default_claims(self, role: str) -> list[Claim]:
        """What counts where no file says anything."""
        ...

    def own_frame(self) -> Frame:
        """Ids that the model's own file asks for in front of and behind a text."""
        ...

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
