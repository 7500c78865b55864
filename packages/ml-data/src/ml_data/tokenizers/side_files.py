"""What the JSON files beside a tokenizer's model state about ids.

| file | what is read of it |
|---|---|
| tokenizer_config.json | the named tokens (`eos_token` ...), `added_tokens_decoder`, settings |
| special_tokens_map.json | the named tokens |
| added_tokens.json | tokens with their ids |
| config.json, generation_config.json | `eos_token_id`, `bos_token_id`, `vocab_size` |

A file that exists and cannot be read is an error, as it may change what the ids mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.recognize import read_json_object
from ml_data.tokenizers.protocol import Role, TokenClaim

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
MODEL_CONFIG, GENERATION = "config.json", "generation_config.json"
SIDE_FILES = (CONFIG, MAP, ADDED, MODEL_CONFIG, GENERATION)
_NAMED_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True, kw_only=True)
class NamedToken:
    """A token that a file adds to the vocabulary, with the id that it states."""

    content: str
    id: int
    special: bool
    source: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True


class SideFiles:
    """The files of SIDE_FILES in a folder, as far as they exist."""

    def __init__(self, folder: Path) -> None:
        paths = [folder / name for name in SIDE_FILES]
        self._files = {path.name: read_json_object(path) for path in paths if path.is_file()}

    @property
    def names(self) -> list[str]:
        """The names of the files that exist."""
        return list(self._files)

    def setting(self, name: str, file: str = CONFIG) -> Any:
        """A value of a file; None where the file or the value is missing."""
        return self._files.get(file, {}).get(name)

    def claims(self, role: Role) -> list[TokenClaim]:
        """What the files say about the token with the role `eos` or `bos`."""
        made = []
        # Texts before ids: a text names a single token, a list of ids may name several.
        for file in (CONFIG, MAP):
            text = self._token_text(file, f"{role}_token")
            if text:
                made.append(TokenClaim(source=f"{role}_token of {file}", text=text))
        for file in (MODEL_CONFIG, GENERATION):
            ids = self._ids(file, f"{role}_token_id")
            if ids:
                made.append(TokenClaim(source=f"{role}_token_id of {file}", ids=ids))
        return made

    def special_texts(self) -> dict[str, str]:
        """Text -> source of the tokens that a file gives a role or lists as special."""
        texts: dict[str, str] = {}
        for file in (CONFIG, MAP):
            for role in _NAMED_TOKENS:
                text = self._token_text(file, f"{role}_token")
                if text:
                    texts.setdefault(text, f"{role}_token of {file}")
            for name in ("additional_special_tokens", "extra_special_tokens"):
                more = self.setting(name, file) or []
                listed = more.values() if isinstance(more, dict) else more
                for value in listed if not isinstance(listed, str) else [listed]:
                    texts.setdefault(_text_of(value, file, name), f"{name} of {file}")
        return texts

    def added_tokens(self) -> list[NamedToken]:
        """Tokens that the files add, by id. Raises TokenizerError where the files disagree."""
        tokens = [*self._added_by_config(), *self._added_by_list()]
        by_text: dict[str, NamedToken] = {}
        by_id: dict[int, NamedToken] = {}
        for token in tokens:
            other = by_text.setdefault(token.content, token)
            if other.id != token.id:
                raise TokenizerError(
                    f"the token {token.content!r} has the id {other.id} in {other.source} and "
                    f"{token.id} in {token.source}: make them agree"
                )
            other = by_id.setdefault(token.id, token)
            if other.content != token.content:
                raise TokenizerError(
                    f"the id {token.id} is {other.content!r} in {other.source} and "
                    f"{token.content!r} in {token.source}: make them agree"
                )
        return sorted(by_text.values(), key=lambda token: token.id)

    def model_vocab_size(self) -> int | None:
        """`vocab_size` of config.json: the rows of the model's embedding."""
        size = self._of_model(MODEL_CONFIG, "vocab_size")
        return size if _is_id(size) else None

    def _of_model(self, file: str, name: str) -> Any:
        values = self._files.get(file, {})
        # Configurations of multimodal models have the language model's part in a section.
        inner = values.get("text_config")
        if values.get(name) is None and isinstance(inner, dict):
            return inner.get(name)
        return values.get(name)

    def _token_text(self, file: str, name: str) -> str | None:
        value = self.setting(name, file)
        return None if value is None else _text_of(value, file, name)

    def _ids(self, file: str, name: str) -> tuple[int, ...]:
        value = self._of_model(file, name)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        if not all(_is_id(number) for number in ids):
            raise TokenizerError(f"{file}: {name} is {value!r}, an id or a list of ids is expected")
        return tuple(ids)

    def _added_by_config(self) -> list[NamedToken]:
        stated = self.setting("added_tokens_decoder") or {}
        tokens = []
        for key, value in stated.items() if isinstance(stated, dict) else [("", stated)]:
            if not key.isdecimal() or not isinstance(value, dict):
                raise TokenizerError(
                    f"{CONFIG}: added_tokens_decoder has the entry {key!r}: {value!r}; an id with "
                    "an object that holds its content is expected"
                )
            special = bool(value.get("special", False))
            flags = {
                name: bool(value.get(name, False)) for name in ("lstrip", "rstrip", "single_word")
            }
            tokens.append(
                NamedToken(
                    content=_text_of(value, CONFIG, "added_tokens_decoder"), id=int(key),
                    special=special, source=CONFIG,
                    normalized=bool(value.get("normalized", not special)), **flags,
                )
            )  # fmt: skip
        return tokens

    def _added_by_list(self) -> list[NamedToken]:
        texts = self.special_texts()
        tokens = []
        for text, number in self._files.get(ADDED, {}).items():
            if not _is_id(number):
                raise TokenizerError(f"{ADDED}: {text!r} has the id {number!r}, which is none")
            special = text in texts
            tokens.append(
                NamedToken(
                    content=text, id=number, special=special, source=ADDED, normalized=not special
                )
            )
        return tokens


def _text_of(value: Any, file: str, name: str) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise TokenizerError(f"{file}: {name} is {value!r}, a token's text is expected")
    return text


def _is_id(value: Any) -> bool:
    # JSON's true is an int to Python. Token files keep ids in 32 bits with a sign.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
