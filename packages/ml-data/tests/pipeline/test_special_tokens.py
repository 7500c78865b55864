"""The ids around documents, from the files, the flags and the API; what a run says about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ml_data
from ml_data.cli import main
from ml_data.errors import FormatError, TokenizerError, UsageError
from ml_data.pipeline.combine import merge
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize
from ml_data.tokenizers import load_tokenizer

from ..conftest import write_lines
from ..tokenizers import makers

Make = Callable[..., TokenizeOptions]
TEXTS = ["the quick brown fox", "", "the cat", "x"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])


def sequences(prefix: Path) -> list[list[int]]:
    data = ml_data.IndexedDataset(prefix)
    return [data[index].tolist() for index in range(len(data))]


@pytest.mark.parametrize("append_eod", [False, True])
@pytest.mark.parametrize("add_bos", [False, True])
def test_documents_are_framed(
    tmp_path: Path, options: Make, lines: Path, append_eod: bool, add_bos: bool
) -> None:
    model = makers.llama3()
    begin, end = map(model.token_to_id, ("<|begin_of_text|>", "<|end_of_text|>"))
    folder = makers.save(model, tmp_path / "t", config={"eos_token_id": end})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eod_id) == (begin, end)
    notices: list[str] = []
    made = options(
        lines, tokenizer_name_or_path=str(folder), append_eod=append_eod, add_bos=add_bos
    )
    (manifest,) = tokenize(made, on_notice=notices.append)
    expected = [
        [*([begin] if add_bos else []), *tokenizer.encode(text), *([end] if append_eod else [])]
        for text in TEXTS
        if text
    ]
    prefix = tmp_path / "out" / "p_text_document"
    assert sequences(prefix) == expected
    assert manifest.num_documents == len(TEXTS)
    assert manifest.options["add_bos"] is add_bos
    assert manifest.ledger.tokens_written == sum(map(len, expected))
    announced = any(f"<|begin_of_text|> ({begin}) in front" in notice for notice in notices)
    assert announced is not add_bos
    assert ml_data.verify(prefix, folder).is_sound


def test_grok1_can_begin_documents_with_its_bos(tmp_path: Path, options: Make, lines: Path) -> None:
    notices: list[str] = []
    tokenize(options(lines, add_bos=True, append_eod=True), on_notice=notices.append)
    assert notices == []
    written = sequences(tmp_path / "out" / "p_text_document")
    assert {(ids[0], ids[-1]) for ids in written} == {(1, 2)}


def test_the_end_of_document_by_flag(
    tmp_path: Path, lines: Path, capsys: pytest.CaptureFixture
) -> None:
    files: dict[str, Any] = {
        "tokenizer_config": {"eos_token": "<a>"}, "generation_config": {"eos_token_id": 1},
    }  # fmt: skip
    folder = makers.save(makers.byte_level("<a>", "<b>", "<c>"), tmp_path / "t", **files)
    command = [
        *("tokenize", "--input", str(lines), "--tokenizer-name-or-path", str(folder)),
        *("--workers", "1"),
    ]
    to_p = ["--output-prefix", str(tmp_path / "p")]
    assert main([*command, *to_p, "--append-eod"]) == 1
    error = capsys.readouterr().err
    assert "tokenizer_config.json" in error
    assert "generation_config.json" in error
    assert "--eod-token" in error
    for number, flags in enumerate((["--eod-token", "<c>"], ["--eod-id", "2"])):
        prefix = tmp_path / f"p{number}"
        assert main([*command, "--append-eod", *flags, "--output-prefix", str(prefix)]) == 0
        assert {ids[-1] for ids in sequences(Path(f"{prefix}_text_document"))} == {2}
        manifest = json.loads(Path(f"{prefix}_text_document.json").read_text())
        assert manifest["tokenizer"]["eod_id"] == 2
    assert main([*command, *to_p, "--append-eod", "--eod-id", "9999"]) == 1
    assert main([*command, *to_p, "--append-eod", "--eod-token", "nope"]) == 1
    capsys.readouterr()
    # Not needed without --append-eod, but said.
    assert main([*command, *to_p]) == 0
    assert "disagree" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"eod_id": 1},
        {"eod_token": "<a>"},
        {"eod_id": 1, "eod_token": "<a>", "append_eod": True},
        {"eod_id": -1, "append_eod": True},
        {"eod_token": "", "append_eod": True},
    ],
)
def test_flags_that_make_no_sense(options: Make, lines: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--eod"):
        options(lines, **changes)


def test_no_beginning_token_to_add(tmp_path: Path, options: Make, lines: Path) -> None:
    folder = makers.save(makers.byte_level("<a>"), tmp_path / "t")
    with pytest.raises(TokenizerError, match="--add-bos: .* no beginning-of-text token"):
        tokenize(options(lines, tokenizer_name_or_path=str(folder), add_bos=True))


def test_verify_with_a_hole_in_the_vocabulary(tmp_path: Path, options: Make, lines: Path) -> None:
    folder = makers.save(makers.byte_level("<a>"), tmp_path / "t")
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    document["model"]["vocab"] = {
        text: number if number < 50 else number + 80_000 for text, number in vocabulary.items()
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (manifest,) = tokenize(options(lines, tokenizer_name_or_path=str(folder)))
    prefix = tmp_path / "out" / "p_text_document"
    assert manifest.dtype == "int32"
    assert ml_data.verify(prefix).is_sound
    # A manifest of 1.0.0 counted the tokens; the tokenizer knows better.
    older = manifest.to_json()
    older["tokenizer"]["vocab_size"] = 400
    Path(f"{prefix}.json").write_text(json.dumps(older))
    assert not ml_data.verify(prefix).is_sound
    assert ml_data.verify(prefix, folder).is_sound
    Path(f"{prefix}.json").unlink()
    np.array([90_000], "<i4").tofile(f"{prefix}.bin")
    assert any("id 90000" in fault for fault in ml_data.verify(prefix, folder).faults)


def test_pairs_with_other_frames_are_not_merged(tmp_path: Path, options: Make, lines: Path) -> None:
    out = tmp_path / "out"
    tokenize(options(lines, name="a", append_eod=True))
    tokenize(options(lines, name="b", append_eod=True, add_bos=True))
    tokenize(options(lines, name="c", append_eod=True, eod_id=1))
    pairs = {name: str(out / f"{name}_text_document") for name in "abc"}
    with pytest.raises(FormatError, match="--add-bos"):
        merge([pairs["a"], pairs["b"]], str(out / "m"))
    with pytest.raises(FormatError, match="with the id 2, .* with 1.*--eod-id"):
        merge([pairs["a"], pairs["c"]], str(out / "m"))
