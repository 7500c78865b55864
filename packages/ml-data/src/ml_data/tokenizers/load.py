"""Load the tokenizer that a path names. Where the files of a folder disagree, the user chooses."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.recognize import (
    TOK_JSON,
    TRANSFORMERS_EXTRA,
    is_tiktoken_file,
    is_tok_json_file,
    read_file,
    vocabulary_files,
    why_not_sentencepiece,
)
from ml_data.tokenizers.protocol import Tokenizer
from ml_data.tokenizers.side_files import SideFiles
from ml_data.tokenizers.special_tokens import settle

if TYPE_CHECKING:
    from ml_data.tokenizers.sentencepiece_model import SentencePieceTokenizer

TIKTOKEN_EXTRA = "pip install 'ml-data[tiktoken]'"
TOKENIZER_TYPES = ("PretrainedFromHF",)
# auto: the fast engine where it is admitted, else the reference tokenizer of the file, else
# transformers. gigatoken is chosen by name only: its ids are compared in samples, not proven equal.
ENGINES = (
    "auto", "fast", "sentencepiece", "gigatoken", "tokenizers", "tiktoken", "transformers",
)  # fmt: skip
_MODEL, _JSON = "tokenizer.model", "tokenizer.json"
_ENGINE_OF = {_MODEL: "sentencepiece", TOK_JSON: "tiktoken", _JSON: "tokenizers"}
# A tokenizer.json is often converted from the tokenizer.model beside it. Conversions are known to
# go wrong on these texts: prefixes, runs of white space, control strings, bytes.
_PROBES = (
    "hello world", " hello", "hello", "  two  spaces", "a\n\nb\n", "\ttab\t\ttabs", "1234567",
    "[EOS] and [PAD]", "<s>a</s>", "<|separator|>x", "<0x0A>", "na\u00efve \u4f60\u597d \U0001f600",
    "x" * 40, " ", "\n", "\n" * 15, "\t" * 11, " " * 40, "\u2581a", "\x00", "it's 10%.", "",
)  # fmt: skip


def load_tokenizer(
    path: str | Path,
    *,
    tokenizer_type: str = "PretrainedFromHF",
    engine: str = "auto",
    parse_special_tokens: bool = False,
    eod_token: str | None = None,
    eod_id: int | None = None,
) -> Tokenizer:
    """Load the tokenizer at `path`, a directory or a file.

    The file is a `tokenizer.model`, `tokenizer.json` or `tokenizer.tok.json`. `engine` is one of
    ENGINES; in a directory with several files, "sentencepiece", "fast" and "gigatoken" choose the
    model, "tokenizers" the json and "tiktoken" the tok.json; "transformers" takes the directory as
    a whole. `parse_special_tokens`: control tokens in text count as tokens. `eod_token` or `eod_id`
    names the end-of-document token; else the files do, and `eod_fault` says where they do not.
    Raises TokenizerError when there is no tokenizer, when the engine does not fit it, when a file
    beside it is damaged or contradicts it, or when a directory has tokenizers that disagree and
    `engine` chooses none.
    """
    if tokenizer_type not in TOKENIZER_TYPES:
        known = ", ".join(TOKENIZER_TYPES)
        raise TokenizerError(f"tokenizer type {tokenizer_type!r}: known types are {known}")
    if engine not in ENGINES:
        raise TokenizerError(f"engine {engine!r}: known engines are {', '.join(ENGINES)}")
    if not str(path).strip():  # pathlib makes the current folder of an empty path
        raise TokenizerError("the tokenizer's path is empty: give a folder or a file")
    path = Path(os.path.expanduser(path))
    files = _files_to_load(path, engine)
    side = SideFiles(files[0] if files[0].is_dir() else files[0].parent)
    loaded = [_load_file(file, engine, parse_special_tokens, side) for file in files]
    for other in loaded[1:]:
        _refuse_disagreement(path, loaded[0], other)
    settle(loaded[0], side, eod_token=eod_token, eod_id=eod_id)
    return loaded[0]


def _files_to_load(path: Path, engine: str) -> list[Path]:
    """The file to load, or the folder for transformers; all files where the user chose none."""
    if path.is_file():
        if engine == "transformers":
            raise TokenizerError(f"engine 'transformers' reads a folder: give {path.parent}")
        return [path]
    if not path.is_dir():
        raise TokenizerError(
            f"tokenizer path {path} does not exist: give a folder or a file of this machine, as "
            "nothing is downloaded"
        )
    if engine == "transformers":
        return [path]
    named = {"tokenizers": [_JSON], "tiktoken": [TOK_JSON], "auto": [_MODEL, TOK_JSON, _JSON]}
    names = named.get(engine, [_MODEL])
    present = [path / name for name in names if (path / name).is_file()]
    if engine == "auto":
        # A file called tokenizer.model may be of tiktoken. A tokenizer.json beside it is the same.
        present = [file for file in present if not is_tiktoken_file(file)]
        if not present and vocabulary_files(path):
            return [path]
    if not present:
        names_there = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise TokenizerError(
            f"{path} holds no tokenizer for engine {engine!r}: expected {' or '.join(names)}, "
            f"found {names_there}"
        )
    return present


def _load_file(path: Path, engine: str, parse_special_tokens: bool, side: SideFiles) -> Tokenizer:
    # The libraries are imported here for start-up time: SentencePiece and tokenizers take 20 to
    # 60 ms each, and a run needs one of them.
    if path.is_dir():
        from ml_data.tokenizers.transformers_folder import load_with_transformers

        return load_with_transformers(path, parse_special_tokens=parse_special_tokens)
    if is_tok_json_file(path):
        if engine not in ("auto", "tiktoken"):
            raise TokenizerError(f"engine {engine!r} does not read {path}; use auto or tiktoken")
        return _load_tok_json(path, parse_special_tokens, side)
    if engine == "tiktoken":
        raise TokenizerError(
            f"engine 'tiktoken' reads a {TOK_JSON} alone, which {path} is not; use auto"
        )
    if path.suffix == ".json":
        if engine not in ("auto", "tokenizers"):
            raise TokenizerError(f"engine {engine!r} does not read {path}; use auto or tokenizers")
        _refuse_other_json(path)
        from ml_data.tokenizers.huggingface_json import HuggingFaceTokenizer  # as above

        loaded = HuggingFaceTokenizer(path, parse_special_tokens=parse_special_tokens)
        loaded.add_tokens(side)
        return loaded
    if engine == "tokenizers":
        raise TokenizerError(
            f"engine 'tokenizers' does not read {path}; use auto, fast or sentencepiece"
        )
    if path.suffix == ".txt" or is_tiktoken_file(path):
        raise TokenizerError(_why_no_model(path))
    if engine == "gigatoken":
        from ml_data.tokenizers.gigatoken_engine import GigatokenTokenizer  # rarely chosen

        model: SentencePieceTokenizer = GigatokenTokenizer(
            path, parse_special_tokens=parse_special_tokens
        )
    else:
        from ml_data.tokenizers.sentencepiece_units import open_model  # as above

        model = open_model(path, engine=engine, parse_special_tokens=parse_special_tokens)
    model.add_tokens(side)
    return model


def _load_tok_json(path: Path, parse_special_tokens: bool, side: SideFiles) -> Tokenizer:
    if importlib.util.find_spec("tiktoken") is None:
        raise TokenizerError(f"{path}: only tiktoken reads a {TOK_JSON}: {TIKTOKEN_EXTRA}")
    from ml_data.tokenizers.tiktoken_engine import TiktokenTokenizer  # optional

    loaded = TiktokenTokenizer(path, parse_special_tokens=parse_special_tokens)
    loaded.add_tokens(side)
    return loaded


def _refuse_other_json(path: Path) -> None:
    """vocab.json and tekken.json are vocabularies, not tokenizers."""
    if path.name in ("vocab.json", "tekken.json"):
        raise TokenizerError(
            f"{path} is a vocabulary, not a tokenizer.json: give its folder {path.parent} "
            f"({TRANSFORMERS_EXTRA})"
        )


def _why_no_model(path: Path) -> str:
    if path.suffix == ".txt":
        return (
            f"{path} is a vocabulary, not a model: give its folder {path.parent} "
            f"({TRANSFORMERS_EXTRA})"
        )
    return why_not_sentencepiece(read_file(path), path)


def _refuse_disagreement(path: Path, first: Tokenizer, other: Tokenizer) -> None:
    different = [text for text in _PROBES if first.encode(text) != other.encode(text)]
    if different:
        names = Path(first.path).name, Path(other.path).name
        engines = ", ".join(f"{_ENGINE_OF[name]} for {name}" for name in names)
        raise TokenizerError(
            f"{path}: {names[0]} and {names[1]} give different ids for {len(different)} of "
            f"{len(_PROBES)} probe texts (first: {different[0]!r}); choose one by giving its "
            f"file, e.g. {path / names[0]}, or by the engine: {engines}"
        )
