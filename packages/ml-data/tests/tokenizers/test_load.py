"""Which file a path means, which engine reads it, and what counts as a token."""

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.model_facts import read_facts
from ml_data.tokenizers import Tokenizer, load_tokenizer


def write_json(folder: Path) -> Path:
    """A small byte-level tokenizer.json with one special and one other added token."""
    model = tokenizers.models.BPE(
        vocab={
            symbol: index
            for index, symbol in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
        },
        merges=[],
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens(["<other>"])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    return path


@pytest.fixture
def both(tmp_path: Path, grok1: Path) -> Path:
    """A directory whose two files disagree."""
    shutil.copy(grok1, tmp_path)
    write_json(tmp_path)
    return tmp_path


def test_files_that_disagree_are_refused_until_one_is_chosen(both: Path) -> None:
    with pytest.raises(TokenizerError, match=r"different ids.*sentencepiece for tokenizer.model"):
        load_tokenizer(both)
    assert load_tokenizer(both, engine="fast").engine_name == "sentencepiece-units"
    assert load_tokenizer(both, engine="sentencepiece").engine_name == "sentencepiece"
    assert load_tokenizer(both, engine="tokenizers").engine_name == "tokenizers"
    assert load_tokenizer(both / "tokenizer.json").engine_name == "tokenizers"
    assert load_tokenizer(both / "tokenizer.model").vocab_size == 131072


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("", {"engine": "quick"}, "known engines are auto, fast"),
        ("", {"tokenizer_type": "Other"}, "known types"),
        ("missing", {}, "does not exist"),
        ("tokenizer.json", {"engine": "fast"}, "does not read"),
        ("tokenizer.model", {"engine": "tokenizers"}, "does not read"),
        ("tokenizer_config.json", {}, "not a tokenizer.json"),
    ],
)
def test_what_is_refused(both: Path, name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(both / name, **options)


def test_an_empty_directory_and_a_damaged_model(tmp_path: Path, grok1: Path) -> None:
    with pytest.raises(TokenizerError, match="found nothing"):
        load_tokenizer(tmp_path)
    damaged = tmp_path / "tokenizer.model"
    damaged.write_bytes(grok1.read_bytes()[:100_000])
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)
    # The library takes a file that was cut off between two of its first pieces for a smaller model.
    raw = grok1.read_bytes()
    damaged.write_bytes(raw[: int(read_facts(raw).starts[40]) - 4])
    for engine in ("auto", "sentencepiece", "fast"):
        with pytest.raises(TokenizerError, match="ends after 40 pieces, .* was cut off"):
            load_tokenizer(tmp_path, engine=engine)


def test_an_empty_path_is_not_the_current_folder(
    grok1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(grok1.parent)
    with pytest.raises(TokenizerError, match="path is empty"):
        load_tokenizer("")


@pytest.mark.parametrize("engine", ["fast", "sentencepiece"])
def test_special_tokens_of_a_model(grok1: Path, engine: str) -> None:
    def ids(text: str, **options: bool) -> list[int]:
        tokenizer = load_tokenizer(grok1, engine=engine, **options)
        assert tokenizer.eod_id == 2
        return tokenizer.encode_arrow(pa.array([text]))[0].tolist()

    plain = ids("one[EOS]two")
    assert 2 not in plain
    parsed = ids("one[EOS]two", parse_special_tokens=True)
    assert parsed.count(2) == 1
    # [EOS] counts as a user-defined symbol does: no prefix after it, as after a line feed.
    line_feed = ids("one\ntwo", parse_special_tokens=True)
    assert [number for number in parsed if number != 2] == [
        number for number in line_feed if number != 4
    ]


def test_special_tokens_of_a_json(tmp_path: Path) -> None:
    write_json(tmp_path)
    plain: Tokenizer = load_tokenizer(tmp_path)
    parsed = load_tokenizer(tmp_path, parse_special_tokens=True)
    assert plain.eod_id == parsed.eod_id == 256
    assert parsed.encode("a<end><other>")[1:] == [256, 257]
    assert 256 not in plain.encode("a<end><other>")
    assert plain.encode("a<end><other>")[-1] == 257
    assert plain.encode_arrow(pa.array(["a<end>"]))[0].tolist() == plain.encode("a<end>")


def test_opening_imports_neither_transformers_nor_tokenizers(grok1: Path) -> None:
    code = (
        "import sys; from ml_data.tokenizers import load_tokenizer; load_tokenizer(sys.argv[1]); "
        "sys.exit(any(name in sys.modules for name in "
        "('transformers', 'torch', 'tokenizers', 'gigatoken', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(grok1)]).returncode == 0
