"""Find the tokenizer that a path names; where a directory's files disagree, let the user choose."""

from __future__ import annotations

from pathlib import Path

from ml_data.errors import TokenizerError
from ml_data.tokenizers.protocol import Tokenizer

TOKENIZER_TYPES = ("PretrainedFromHF",)
# auto: the fast engine where it is admitted, else the truth of the file's kind.
ENGINES = ("auto", "fast", "sentencepiece", "tokenizers")
_MODEL, _JSON = "tokenizer.model", "tokenizer.json"
# Texts on which converted tokenizers are known to go wrong: prefixes, runs of white space,
# control strings, bytes.
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
) -> Tokenizer:
    """Load the tokenizer at `path`, a directory or a `tokenizer.model` / `tokenizer.json` file.

    `engine` is one of ENGINES; in a directory with both files, "sentencepiece" and "fast" choose
    the model and "tokenizers" the json. `parse_special_tokens`: control tokens in text count as
    tokens. Raises TokenizerError when there is no tokenizer, when the engine does not fit it, or
    when a directory holds two that disagree and nothing chose between them.
    """
    if tokenizer_type not in TOKENIZER_TYPES:
        known = ", ".join(TOKENIZER_TYPES)
        raise TokenizerError(f"tokenizer type {tokenizer_type!r}: known types are {known}")
    if engine not in ENGINES:
        raise TokenizerError(f"engine {engine!r}: known engines are {', '.join(ENGINES)}")
    files = _find(Path(path), engine)
    loaded = [_load_file(file, engine, parse_special_tokens) for file in files]
    if len(loaded) == 2:
        _refuse_disagreement(Path(path), loaded[0], loaded[1])
    return loaded[0]


def _find(path: Path, engine: str) -> list[Path]:
    """The one file to load, or both files of a directory where nothing chose between them."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TokenizerError(
            f"tokenizer path {path} does not exist: give a folder or a file of this machine, as "
            "nothing is downloaded"
        )
    names = {"tokenizers": [_JSON], "auto": [_MODEL, _JSON]}.get(engine, [_MODEL])
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        held = ", ".join(sorted(one.name for one in path.iterdir())[:8]) or "nothing"
        raise TokenizerError(
            f"{path} holds no tokenizer for engine {engine!r}: expected {' or '.join(names)}, "
            f"found {held}"
        )
    return found


def _load_file(path: Path, engine: str, parse_special_tokens: bool) -> Tokenizer:
    # The libraries are imported here, so that a model does not wait for the other one's.
    if path.suffix == ".json":
        if engine not in ("auto", "tokenizers"):
            raise TokenizerError(f"engine {engine!r} does not read {path}; use auto or tokenizers")
        from ml_data.tokenizers.huggingface_json import HuggingFaceTokenizer

        return HuggingFaceTokenizer(path, parse_special_tokens=parse_special_tokens)
    if engine == "tokenizers":
        raise TokenizerError(
            f"engine 'tokenizers' does not read {path}; use auto, fast or sentencepiece"
        )
    from ml_data.tokenizers.sentencepiece_model import SentencePieceTokenizer
    from ml_data.tokenizers.sentencepiece_units import NotAdmittedError, UnitTokenizer

    if engine != "sentencepiece":
        try:
            return UnitTokenizer(path, parse_special_tokens=parse_special_tokens)
        except NotAdmittedError as error:
            if engine == "fast":
                raise TokenizerError(f"{error}; use the engine auto or sentencepiece") from error
    return SentencePieceTokenizer(path, parse_special_tokens=parse_special_tokens)


def _refuse_disagreement(path: Path, model: Tokenizer, json: Tokenizer) -> None:
    different = [text for text in _PROBES if model.encode(text) != json.encode(text)]
    if different:
        raise TokenizerError(
            f"{path}: {_MODEL} and {_JSON} give different ids for {len(different)} of "
            f"{len(_PROBES)} probe texts (first: {different[0]!r}); choose one by giving its "
            f"file, e.g. {path / _MODEL}, or by the engine: sentencepiece for {_MODEL}, "
            f"tokenizers for {_JSON}"
        )
