"""A `tokenizer.model` encoded by SentencePiece, the reference tokenizer of such a file.

User-defined symbols in text count as tokens. Control tokens in text, such as `[EOS]`, stay text.
With `parse_special_tokens` they count as tokens, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import sentencepiece

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.model_facts import read_facts, with_control_tokens_in_text
from ml_data.tokenizer_files.recognize import read_file, why_not_sentencepiece
from ml_data.tokenizers.base import TokenizerBase
from ml_data.tokenizers.protocol import (
    Ids,
    Role,
    TokenClaim,
    check_text,
    check_values,
    flatten,
)
from ml_data.tokenizers.side_files import SideFiles
from ml_data.unicode_text import is_unicode


class SentencePieceTokenizer(TokenizerBase):
    """SentencePiece over one model file."""

    engine_name = "sentencepiece"

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        super().__init__(str(path), parse_special_tokens=parse_special_tokens)
        self._added: dict[int, str] = {}
        raw = read_file(path)
        self._processor = load_processor(raw, path)
        self.fingerprint = hashlib.sha256(raw).hexdigest()
        self.vocab_size: int = self._processor.vocab_size()
        eod, bos = self._processor.eos_id(), self._processor.bos_id()
        self.eod_id = eod if eod >= 0 else None
        self.bos_id = bos if bos >= 0 else None
        # Read before control tokens are made symbols below: then the library names none of them.
        self.own_claims = _claims_of_model(path, {"eos": self.eod_id, "bos": self.bos_id})
        if parse_special_tokens:
            raw = with_control_tokens_in_text(raw)
            self._processor = load_processor(raw, path)
        self._raw, self._facts = raw, read_facts(raw)
        # A file that was cut off between two pieces is a model to the library, of fewer pieces.
        if not self._facts.has_trainer_spec:
            raise TokenizerError(
                f"{path} ends after {len(self._facts.starts):,} pieces, without the settings that "
                "follow them in a SentencePiece model: it was cut off. Copy it again"
            )

    def add_tokens(self, side: SideFiles) -> None:
        """Record the tokens that files beside the model add to it: their ids are valid ids.

        SentencePiece does not look for these tokens in text, which a notice says. Raises
        TokenizerError where a file and the model disagree about an id, and where
        `parse_special_tokens` asks for added tokens to be searched for in text.
        """
        size = self._processor.vocab_size()
        for token in side.added_tokens():
            known = self.token_id(token.content)
            inside = self._processor.id_to_piece(token.id) if token.id < size else None
            if known not in (None, token.id) or inside not in (None, token.content):
                other = f"the id {known}" if known is not None else f"{inside!r} at this id"
                raise TokenizerError(
                    f"{token.source} gives {token.content!r} the id {token.id}, {self.path} has "
                    f"{other}: make them agree"
                )
            if token.id >= size:
                self._added[token.id] = token.content
        if self._added:
            self._announce_added(side)
        if side.setting("sp_model_kwargs"):
            self.notices.append(
                f"sp_model_kwargs of tokenizer_config.json is not applied: {self.path} alone "
                "decides about ids"
            )

    def _announce_added(self, side: SideFiles) -> None:
        first = min(self._added)
        files = sorted({token.source for token in side.added_tokens() if token.id in self._added})
        what = (
            f"{' and '.join(files)} add {len(self._added)} tokens to {self.path} (first: "
            f"{self._added[first]!r}, id {first})"
        )
        if self.parse_special_tokens:
            raise TokenizerError(
                f"{what}, and SentencePiece cannot look for them in text: leave "
                "--parse-special-tokens away, or use a tokenizer.json of the same release"
            )
        self.vocab_size = max(self.vocab_size, max(self._added) + 1)
        self.notices.append(f"{what}: in text they stay text; --eod-token can name one of them")

    def token_id(self, token: str) -> int | None:
        """Id of the piece, or added token, with exactly this text."""
        if not is_unicode(token):
            return None
        number = int(self._processor.piece_to_id(token))
        # The library answers with the id of the unknown piece for a text that is no piece.
        if self._processor.id_to_piece(number) == token:
            return number
        return next((number for number, text in self._added.items() if text == token), None)

    def token_of(self, token_id: int) -> str | None:
        """Text of a piece or added token; None where there is none."""
        if 0 <= token_id < self._processor.vocab_size():
            return str(self._processor.id_to_piece(token_id))
        return self._added.get(token_id)

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        check_text(text)
        ids: list[int] = self._processor.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        for text in texts:
            check_text(text)
        return flatten(self._processor.encode(list(texts), num_threads=1))

    def encode_arrow(self, values: pa.Array) -> tuple[Ids, Ids]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        texts = check_values(values).to_pylist()
        return flatten(self._processor.encode(texts, num_threads=1))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; an added token shows as its own text."""
        parts: list[str] = []
        run: list[int] = []
        # The library does not know the added tokens: it decodes the runs of ids between them.
        for number in map(int, ids):
            if number in self._added:
                parts += [self._processor.decode(run), self._added[number]]
                run = []
            else:
                run.append(number)
        return "".join((*parts, self._processor.decode(run)))


def _claims_of_model(path: Path, ids: dict[Role, int | None]) -> dict[Role, list[TokenClaim]]:
    """The model's own end and beginning tokens as claims."""
    return {
        role: [TokenClaim(source=path.name, ids=(token_id,))]
        for role, token_id in ids.items()
        if token_id is not None
    }


def load_processor(raw: bytes, path: Path) -> sentencepiece.SentencePieceProcessor:
    """The processor over a serialized model; TokenizerError when it is not one."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        # The library accepts an empty file as a model without pieces.
        if raw and processor.LoadFromSerializedProto(raw) and processor.vocab_size():
            return processor
    except RuntimeError as error:
        raise TokenizerError(why_not_sentencepiece(raw, path)) from error
    raise TokenizerError(why_not_sentencepiece(raw, path))
