"""Folders that only transformers can read: its own ids, without torch or code from the folder."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ml_data
from ml_data.errors import TokenizerError
from ml_data.tokenizers import load, load_tokenizer, transformers_folder

from ..conftest import write_lines
from . import makers

TEXTS = [
    "the quick brown fox", " two  spaces ", "a\n\nb\t", "", "na\u00efve \u4f60\u597d 123",
    "<|endoftext|> [SEP] <eos> L A G", "it's",
]  # fmt: skip


def gpt2(folder: Path) -> None:
    """vocab.json with merges.txt."""
    makers.byte_level("<|endoftext|>").model.save(str(folder))
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def bert(folder: Path) -> None:
    """vocab.txt, and the class by config.json alone."""
    makers.word_piece().model.save(str(folder))
    (folder / "config.json").write_text('{"model_type": "bert"}')


def tiktoken(folder: Path) -> None:
    """A tiktoken file that is called tokenizer.model, as in Llama 3's original/ folder."""
    tokens = [bytes([value]) for value in range(256)] + [b"th", b"the", b" the", b"he", b" q"]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    (folder / "tokenizer.model").write_text("".join(lines))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def esm(folder: Path) -> None:
    """A tokenizer that transformers has in Python only."""
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V"]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')


MAKERS = [gpt2, bert, tiktoken, esm]


def needs(make: Callable[[Path], None]) -> Any:
    """transformers' AutoTokenizer, or a skip where a library that the kind needs is missing."""
    if make is tiktoken:
        pytest.importorskip("tiktoken")
    return pytest.importorskip("transformers").AutoTokenizer


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("parse", [False, True])
def test_ids_are_transformers_own(
    tmp_path: Path, make: Callable[[Path], None], parse: bool
) -> None:
    automatic = needs(make)
    make(tmp_path)
    tokenizer = load_tokenizer(tmp_path, parse_special_tokens=parse)
    assert tokenizer.engine_name == "transformers"
    reference = automatic.from_pretrained(tmp_path, local_files_only=True)
    expected = [
        reference(text, add_special_tokens=False, split_special_tokens=not parse)["input_ids"]
        for text in TEXTS
    ]
    ids, lengths = tokenizer.encode_arrow(pa.array(TEXTS))
    assert [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] == expected
    assert [tokenizer.encode(text) for text in TEXTS] == expected
    assert tokenizer.vocab_size == max(reference.get_vocab().values()) + 1
    assert tokenizer.eod_id == reference.eos_token_id
    assert [*tokenizer.frame[0], *tokenizer.encode("a"), *tokenizer.frame[1]] == reference(
        "a"
    ).input_ids
    assert transformers_folder._fingerprint(tmp_path) == tokenizer.fingerprint


@pytest.mark.parametrize("make", [gpt2, esm])
def test_a_run_with_workers_needs_no_torch(tmp_path: Path, make: Callable[[Path], None]) -> None:
    needs(make)
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    make(folder)
    lines = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS] * 9)
    code = (
        "import sys, ml_data\n"
        "ml_data.tokenize(*sys.argv[1:], append_eod=True, workers=2, batch_bytes=300)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))\n"
    )
    command = [sys.executable, "-c", code, str(lines), str(folder), str(tmp_path / "p")]
    subprocess.run(command, check=True, timeout=120)
    prefix = tmp_path / "p_text_document"
    assert ml_data.verify(prefix, folder).is_sound
    tokenizer, data = load_tokenizer(folder), ml_data.IndexedDataset(prefix)
    expected = [[*tokenizer.encode(text), tokenizer.eod_id] for text in TEXTS if text]
    assert [data[index].tolist() for index in range(len(expected))] == expected


def test_the_process_has_no_torch(tmp_path: Path) -> None:
    """transformers itself imports torch where it finds it."""
    needs(gpt2)
    gpt2(tmp_path)
    code = (
        "import sys\nfrom ml_data.tokenizers.transformers_process import load\n"
        "load(sys.argv[1])\n"
        "sys.exit(any(name.split('.')[0] == 'torch' and module is not None "
        "for name, module in sys.modules.items()))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    needs(gpt2)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    trap = tmp_path / "was_run"
    (tmp_path / "own.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match="runs no code from there"):
        load_tokenizer(tmp_path)
    assert not trap.exists()


def test_a_folder_that_names_no_class(tmp_path: Path) -> None:
    needs(gpt2)
    gpt2(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match="cannot read .*tokenizer_class"):
        load_tokenizer(tmp_path)


def test_without_transformers_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpt2(tmp_path)
    monkeypatch.setattr(transformers_folder.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TokenizerError, match=r"merges.txt.*pip install 'ml-data\[transformers\]'"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="reads a folder"):
        load_tokenizer(tmp_path / "vocab.json", engine="transformers")


def test_it_is_chosen_only_where_nothing_else_reads_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("transformers was asked")

    monkeypatch.setattr(transformers_folder, "load_with_transformers", refuse)
    tokenizer = makers.byte_level("<|endoftext|>")
    tokenizer.model.save(str(tmp_path))
    assert load_tokenizer(makers.save(tokenizer, tmp_path)).engine_name == "tokenizers"
    assert "transformers" in load.ENGINES


def test_a_process_that_dies_is_an_error(tmp_path: Path) -> None:
    needs(esm)
    esm(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer._process._process.kill()  # type: ignore[attr-defined]
    with pytest.raises(TokenizerError, match="process with transformers ended"):
        tokenizer.encode("L A")
