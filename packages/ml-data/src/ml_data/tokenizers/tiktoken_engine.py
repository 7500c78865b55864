"""A `tokenizer.tok.json` (Grok-2) encoded by tiktoken, the reference tokenizer of such a file.

Special tokens in text stay text. With `parse_special_tokens` they count as tokens.

tiktoken is an optional dependency. The tokenizers library, made from the same ranks, gave the same
ids for 13 MB of text and for every code point, at a seventh of the speed; merges must be guessed
for it, so equality is not proven. docs/tokenizers.md has the figures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import tiktoken

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.recognize import read_file
from ml_data.tokenizer_files.tok_json import TokJson, read_tok_json
from ml_data.tokenizers.base import TokenizerBase
from ml_data.tokenizers.protocol import Ids, TokenClaim, check_text, flatten, shorten
from ml_data.tokenizers.side_files import SideFiles

# The release's token at the end of a document. <|separator|> ends a turn of a chat.
_END_OF_DOCUMENT = "<|eos|>"
# tiktoken's regular expressions end in an error at a million characters of white space in a row:
# the lookahead `\s+(?!\S)` keeps a stack entry for each of them. Longer runs are cut out before.
LONGEST_WHITE_SPACE = 100_000
# Unicode's White_Space, which is `\s` to tiktoken, without line feed and carriage return.
_BLANK = "\t\x0b\x0c \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


class TiktokenTokenizer(TokenizerBase):
    """tiktoken over one tokenizer.tok.json."""

    engine_name = "tiktoken"
    releases_gil = True

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        super().__init__(str(path), parse_special_tokens=parse_special_tokens)
        file = self._file = read_tok_json(path)
        self.fingerprint = hashlib.sha256(read_file(path)).hexdigest()
        self._specials, self._ranks = file.specials, file.ranks
        self._texts = {number: text for text, number in file.specials.items()}
        self._bytes = {number: token for token, number in file.ranks.items()}
        self._lengths = {number: len(token) for number, token in self._bytes.items()}
        self._lengths |= {number: len(text.encode()) for number, text in self._texts.items()}
        self._encoding = self._open(file.pattern)
        self._has_own_pattern = file.has_own_pattern
        self.vocab_size = max((*self._texts, *self._bytes)) + 1
        if _END_OF_DOCUMENT in self._specials:
            claim = TokenClaim(source=path.name, text=_END_OF_DOCUMENT)
            self.own_claims = {"eos": [claim]}
        self._allowed = frozenset(self._specials) if parse_special_tokens else frozenset()
        if parse_special_tokens:
            self._refuse_ambiguous_specials()
        self._announce(file)

    def _open(self, pattern: str) -> tiktoken.Encoding:
        try:
            # Without `explicit_n_vocab`, which refuses vocabularies with holes.
            return tiktoken.Encoding(
                self.path, pat_str=pattern, mergeable_ranks=dict(self._ranks),
                special_tokens=dict(self._specials),
            )  # fmt: skip
        except ValueError as error:
            raise TokenizerError(
                f"{self.path}: tiktoken does not take its pat_str: {str(error)[:160]}"
            ) from error

    @cached_property
    def _unsplit(self) -> tiktoken.Encoding:
        """One unit a text: for runs of white space that the split pattern cannot take."""
        return self._open(r"[\s\S]+")

    def _refuse_ambiguous_specials(self) -> None:
        """Refuse a special token that begins with another: tiktoken takes either of them."""
        texts = sorted(self._specials)
        for shorter, longer in zip(texts, texts[1:], strict=False):
            if longer.startswith(shorter):
                raise TokenizerError(
                    f"{self.path}: the special token {longer!r} begins with {shorter!r}, so that "
                    "its ids in text are ambiguous: leave --parse-special-tokens away"
                )

    def _announce(self, file: TokJson) -> None:
        if file.vocab_size is not None and file.vocab_size > self.vocab_size:
            self.notices.append(
                f"{self.path} has a vocab_size of {file.vocab_size}, its ids go up to "
                f"{self.vocab_size - 1}: no text has the ids above"
            )
        if file.allowed_by_default and not self.parse_special_tokens:
            self.notices.append(
                f"{self.path} allows {len(file.allowed_by_default)} special tokens in text (first: "
                f"{file.allowed_by_default[0]!r}): they stay text without --parse-special-tokens"
            )

    def add_tokens(self, side: SideFiles) -> None:
        """Refuse files beside it that give its tokens other ids or add tokens."""
        for token in side.added_tokens():
            if self.token_id(token.content) != token.id:
                raise TokenizerError(
                    f"{token.source} gives {token.content!r} the id {token.id}, {self.path} has "
                    f"{self._describe(token.content)}: make them agree, or give a folder without "
                    f"{token.source}"
                )

    def _describe(self, text: str) -> str:
        number = self.token_id(text)
        return "no such token" if number is None else f"the id {number}"

    def token_id(self, token: str) -> int | None:
        """Id of the token with exactly this text."""
        number = self._specials.get(token)
        return self._ranks.get(token.encode(errors="replace")) if number is None else number

    def token_of(self, token_id: int) -> str | None:
        """Text of a token, bytes that are not UTF-8 as \\xNN; None where there is none."""
        token = self._bytes.get(token_id)
        if token is None:
            return self._texts.get(token_id)
        return token.decode(errors="backslashreplace")

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        check_text(text)
        try:
            if self._has_own_pattern:
                return self._encode_by_own_pattern(text)
            return (
                self._encode_long(text) if len(text) >= LONGEST_WHITE_SPACE else self._encode(text)
            )
        except ValueError as error:
            raise TokenizerError(
                f"tiktoken cannot split the text {shorten(text)} by the pat_str of {self.path}: "
                f"{str(error)[:120]}"
            ) from error

    def _encode(self, text: str) -> list[int]:
        return self._encoding.encode(text, allowed_special=self._allowed, disallowed_special=())

    def _encode_by_own_pattern(self, text: str) -> list[int]:
        """`_encode`, checked: tiktoken leaves out in silence what a pattern does not match."""
        ids = self._encode(text)
        if sum(map(self._lengths.__getitem__, ids)) != len(text.encode()):
            raise TokenizerError(
                f"the pat_str of {self.path} does not match all of the text {shorten(text)}: the "
                "rest of it would have no ids"
            )
        return ids

    def _encode_long(self, text: str) -> list[int]:
        """`_encode` of a text that may hold very long runs of white space."""
        ids: list[int] = []
        for part, is_special in self._around_specials(text):
            if is_special:
                ids.append(self._specials[part])
                continue
            for piece, is_blank in self._around_blanks(part):
                ids += self._unsplit.encode_ordinary(piece) if is_blank else self._encode(piece)
        return ids

    def _around_specials(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text and its special tokens in turn; the pattern sees the text between them alone."""
        if not self._allowed:
            yield text, False
            return
        # The group keeps the special tokens, at the odd rows.
        pattern = "|".join(map(re.escape, self._allowed))
        for row, part in enumerate(re.split(f"({pattern})", text)):
            if part:
                yield part, row % 2 == 1

    def _around_blanks(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text and its long runs of blanks in turn, cut where the V1 pattern cuts, too.

        A unit that began before a run never enters it: only line ends can follow a unit of other
        characters. Up to a later line end the run is one unit with it, which tiktoken's engine
        takes without a stack. Else the run is one unit up to its last blank, which is left to the
        characters behind it; at the end of the text it is one unit.
        """
        start = 0
        for run in re.finditer(f"[{_BLANK}]{{{LONGEST_WHITE_SPACE},}}", text):
            end = run.end()
            if text[end : end + 1] in ("\r", "\n"):
                continue
            end -= end < len(text)
            yield text[start : run.start()], False
            yield text[run.start() : end], True
            start = end
        yield text[start:], False

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        return flatten([self.encode(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. TokenizerError for a hole."""
        numbers = [int(number) for number in ids]
        unknown = next((n for n in numbers if n not in self._bytes and n not in self._texts), None)
        if unknown is not None:
            raise TokenizerError(f"{self.path} has no token with the id {unknown}")
        return self._encoding.decode(numbers)
