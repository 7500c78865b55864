"""A `tokenizer.json` encoded by the `tokenizers` library, the reference tokenizer of such a file.

Special tokens in text stay text, unless `parse_special_tokens` asks for them. Other added tokens
always count as tokens. A file may store settings of an earlier call: truncation, padding, dropout.
They are switched off, with a notice, so that a document is encoded whole and always to the same
ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import tokenizers

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.recognize import read_file, refuse_lfs_pointer
from ml_data.tokenizers.base import TokenizerBase
from ml_data.tokenizers.protocol import Frame, Ids, check_text, flatten
from ml_data.tokenizers.side_files import CONFIG, NamedToken, SideFiles
from ml_data.unicode_text import is_unicode

_BOM = b"\xef\xbb\xbf"
_PROBE = "a"


class HuggingFaceTokenizer(TokenizerBase):
    """The `tokenizers` library over one tokenizer.json, without added special tokens."""

    engine_name = "tokenizers"
    releases_gil = True
    has_own_frame = True

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        super().__init__(str(path), parse_special_tokens=parse_special_tokens)
        raw = read_file(path)
        refuse_lfs_pointer(raw, path)
        self._load(raw.removeprefix(_BOM))
        self.fingerprint = hashlib.sha256(raw).hexdigest()

    def _load(self, raw: bytes) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(raw)
        except Exception as error:
            raise TokenizerError(f"{self.path} is not a tokenizer.json: {error}") from error
        self._tokenizer.encode_special_tokens = not self.parse_special_tokens
        self._document: dict[str, Any] = _parse(raw)
        self._refuse_moved_tokens()
        self._switch_off_stored_calls()
        self.vocab_size = self._id_bound()

    def _refuse_moved_tokens(self) -> None:
        """Refuse ids of added tokens with a gap: the library would number them anew in silence."""
        for token in self._document.get("added_tokens") or []:
            got = self._tokenizer.token_to_id(token["content"])
            if got != token["id"]:
                raise TokenizerError(
                    f"{self.path} gives the added token {token['content']!r} the id "
                    f"{token['id']}, and the tokenizers library makes {got} of it: added tokens "
                    "must follow the vocabulary without a gap; correct the file"
                )

    def _switch_off_stored_calls(self) -> None:
        stored = self._tokenizer.truncation
        if stored:
            self._tokenizer.no_truncation()
            self.notices.append(
                f"{self.path} stores a truncation to {stored['max_length']} tokens: not applied, "
                "documents are encoded whole"
            )
        if self._tokenizer.padding:
            self._tokenizer.no_padding()
            self.notices.append(f"{self.path} stores padding: not applied")
        model = self._tokenizer.model
        if getattr(model, "dropout", None):
            model.dropout = None
            self.notices.append(
                f"{self.path} stores a BPE dropout, which makes ids random: not applied"
            )

    def _id_bound(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def add_tokens(self, side: SideFiles) -> None:
        """Apply the tokens that files beside the model add, as transformers does.

        Raises TokenizerError where a file and the tokenizer.json disagree about an id.
        """
        applied = [token for token in side.added_tokens() if self._add(token)]
        if applied:
            files = " and ".join(sorted({token.source for token in applied}))
            self.notices.append(
                f"{files} add {len(applied)} tokens to {self.path} (first: "
                f"{applied[0].content!r}, id {applied[0].id}): they count"
            )
            stated = json.dumps([asdict(token) for token in applied], sort_keys=True)
            self.fingerprint = hashlib.sha256((self.fingerprint + stated).encode()).hexdigest()
        if self.parse_special_tokens:
            self._mark_special(side)
        self.vocab_size = self._id_bound()
        self._compare_settings(side)

    def _add(self, token: NamedToken) -> bool:
        known, other = self.token_id(token.content), self.token_of(token.id)
        if known == token.id:
            return False
        if known is not None or other is not None:
            has = f"the id {known}" if known is not None else f"{other!r} at this id"
            raise TokenizerError(
                f"{token.source} gives {token.content!r} the id {token.id}, {self.path} has {has}: "
                "make them agree"
            )
        added = tokenizers.AddedToken(
            token.content, single_word=token.single_word, lstrip=token.lstrip,
            rstrip=token.rstrip, normalized=token.normalized, special=token.special,
        )  # fmt: skip
        # Only `add_special_tokens` registers a token as special.
        if token.special:
            self._tokenizer.add_special_tokens([added])
        else:
            self._tokenizer.add_tokens([added])
        got = self.token_id(token.content)
        if got != token.id:
            raise TokenizerError(
                f"{token.source} gives {token.content!r} the id {token.id}, and the tokenizers "
                f"library would make {got} of it: added tokens must follow the vocabulary of "
                f"{self.path} without a gap"
            )
        return True

    def _mark_special(self, side: SideFiles) -> None:
        """Tokens of the vocabulary that a file names as special count in text."""
        special = {
            token.content
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if token.special
        }
        for text in side.special_texts():
            if text not in special and self.token_id(text) is not None:
                self._tokenizer.add_special_tokens([text])

    def _compare_settings(self, side: SideFiles) -> None:
        """Name settings of tokenizer_config.json that contradict the tokenizer.json."""
        stated = dict(_settings(self._document.get("normalizer")))
        stated |= dict(_settings(self._document.get("pre_tokenizer")))
        for name, has in stated.items():
            wanted = side.setting(name)
            if isinstance(wanted, bool) and isinstance(has, bool) and wanted != has:
                self.notices.append(
                    f"{CONFIG} says {name} {str(wanted).lower()}, {self.path} says "
                    f"{str(has).lower()}: the latter counts"
                )

    def token_id(self, token: str) -> int | None:
        """Id of the token with exactly this text."""
        number: int | None = self._tokenizer.token_to_id(token) if is_unicode(token) else None
        return number

    def token_of(self, token_id: int) -> str | None:
        """Text of a token; None where there is none."""
        if token_id < 0:
            return None
        text: str | None = self._tokenizer.id_to_token(token_id)
        return text

    def own_frame(self) -> Frame:
        """What the post-processor puts in front of and behind a text."""
        if not self._tokenizer.num_special_tokens_to_add(False):
            return (), ()
        # The library does not state what it adds, so a text is encoded with it and without it.
        plain = self._tokenizer.encode(_PROBE, add_special_tokens=False).ids
        framed = self._tokenizer.encode(_PROBE, add_special_tokens=True).ids
        for start in range(len(framed) - len(plain) + 1):
            if plain and framed[start : start + len(plain)] == plain:
                return tuple(framed[:start]), tuple(framed[start + len(plain) :])
        return (), ()

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        check_text(text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        for text in texts:
            check_text(text)
        # The fast form leaves out the offsets of tokens in the text, which nobody needs here.
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return flatten([encoding.ids for encoding in encoded])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        text: str = self._tokenizer.decode(
            [int(number) for number in ids], skip_special_tokens=False
        )
        return text


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(raw)
    except ValueError:  # json reads some documents that orjson refuses, such as those with NaN
        document = json.loads(raw)
    kept = ("added_tokens", "normalizer", "pre_tokenizer")
    return {name: document.get(name) for name in kept} if isinstance(document, dict) else {}


def _settings(part: Any) -> list[tuple[str, Any]]:
    """(name in tokenizer_config.json, value here) for a normalizer or pre-tokenizer."""
    if not isinstance(part, dict):
        return []
    children = [*(part.get("normalizers") or []), *(part.get("pretokenizers") or [])]
    pairs = [pair for child in children for pair in _settings(child)]
    if part.get("type") == "BertNormalizer":
        pairs += [
            ("do_lower_case", part.get("lowercase")),
            ("strip_accents", part.get("strip_accents")),
            ("tokenize_chinese_chars", part.get("handle_chinese_chars")),
        ]
    if part.get("type") == "ByteLevel" and part.get("use_regex", True):
        pairs.append(("add_prefix_space", part.get("add_prefix_space")))
    if part.get("type") == "Metaspace":
        pairs.append(("add_prefix_space", part.get("prepend_scheme", "always") != "never"))
    return pairs
