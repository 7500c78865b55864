"""Find the tokenizer that a path names; where a directory's files disagree, let the user choose."""

from __future__ import annotations

from pathlib import Path

from ml_data.errors import TokenizerError
from ml_data.tokenizers.huggingface_json import HuggingFaceTokenizer
from ml_data.tokenizers.protocol import Tokenizer
from ml_data.tokenizers.sentencepiece_model import SentencePieceTokenizer

TOKENIZER_TYPES = ("PretrainedFromHF",)
_MODEL, _JSON = "tokenizer.model", "tokenizer.json"
# Texts on which converted tokenizers are known to go wrong: prefixes, runs of white space,
# control strings, bytes.
_PROBES = (
    "hello world", " hello", "hello", "  two  spaces", "a\n\nb\n", "\ttab\t\ttabs", "1234567",
    "[EOS] and [PAD]", "<|separator|>x", "na\u00efve \u4f60\u597d \U0001f600", "x" * 40, " ", "\n",
)  # fmt: skip


def load_tokenizer(
    path: str | Path, *, tokenizer_type: str = "PretrainedFromHF", engine: str = "auto"
) -> Tokenizer:
    """Load the tokenizer at `path`, a directory or a `tokenizer.model` / `tokenizer.json` file.

    Raises TokenizerError when there is none, or when a directory holds two that disagree.
    """
    if tokenizer_type not in TOKENIZER_TYPES:
        raise TokenizerError(
            f"tokenizer type {tokenizer_type!r}: known types are {', '.join(TOKENIZER_TYPES)}"
        )
    if engine != "auto":
        raise TokenizerError(f"engine {engine!r}: the only choice is 'auto'")
    path = Path(path)
    if path.is_file():
        return _load_file(path)
    if not path.is_dir():
        raise TokenizerError(f"tokenizer path {path} does not exist")
    found = [path / name for name in (_MODEL, _JSON) if (path / name).is_file()]
    if not found:
        held = ", ".join(sorted(one.name for one in path.iterdir())[:8]) or "nothing"
        raise TokenizerError(
            f"{path} holds no tokenizer: expected {_MODEL} or {_JSON}, found {held}"
        )
    loaded = [_load_file(one) for one in found]
    if len(loaded) == 2:
        _refuse_disagreement(path, loaded[0], loaded[1])
    return loaded[0]


def _load_file(path: Path) -> Tokenizer:
    if path.suffix == ".json":
        return HuggingFaceTokenizer(path)
    return SentencePieceTokenizer(path)


def _refuse_disagreement(path: Path, model: Tokenizer, json: Tokenizer) -> None:
    different = [text for text in _PROBES if model.encode(text) != json.encode(text)]
    if different:
        raise TokenizerError(
            f"{path}: {_MODEL} and {_JSON} give different ids for {len(different)} of "
            f"{len(_PROBES)} probe texts (first: {different[0]!r}); choose one by giving its "
            f"file, e.g. {path / _MODEL}"
        )
