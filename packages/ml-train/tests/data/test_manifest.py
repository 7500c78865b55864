"""Manifests and tokenizers that do not fit the model or each other stop a run before its start."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from small_loaders import loaders
from token_files import write_tokens

from ml_data.indexed.manifest import FORMAT
from ml_train.config.sections.data import DataSection
from ml_train.config.sections.tokenizer import TokenizerSection
from ml_train.data.manifest import tokenizer_facts
from ml_train.errors import DataError

LENGTHS = [17, 40, 3, 25, 60, 9, 31, 12] * 5


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return write_tokens(tmp_path / "tokens", lengths=LENGTHS)


def write_manifest(prefix: str, *, size: int | None = None, **tokenizer) -> None:
    facts = {"vocab_size": 10_000, "eod_id": 2, "fingerprint": "a" * 64, **tokenizer}
    size = Path(f"{prefix}.bin").stat().st_size if size is None else size
    files = {Path(prefix).name + ".bin": {"bytes": size, "sha256": "0" * 64}}
    text = {"format": FORMAT, "format_version": 1, "tokenizer": facts, "files": files}
    Path(f"{prefix}.json").write_text(json.dumps(text))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 20_000}, "vocabulary of 20000 ids, but the model has only"),
        ({"eod_id": 3}, "end-of-document id 3, the tokenizer has 2"),
        ({"fingerprint": "b" * 64}, "made with another tokenizer"),
        ({"size": 5}, "its manifest says 5"),
    ],
)
def test_a_manifest_that_does_not_fit_stops_the_run(prefix: str, changes, words: str) -> None:
    write_manifest(prefix, **changes)
    data = DataSection(data_path=(prefix,), split="1,0,0")
    with pytest.raises(DataError, match=words):
        loaders(data, eod_id=2, fingerprint="a" * 64)


def test_files_of_two_tokenizers_do_not_blend(prefix: str, tmp_path: Path) -> None:
    other = write_tokens(tmp_path / "other", lengths=[40])
    write_manifest(prefix)
    write_manifest(other, eod_id=5)
    with pytest.raises(DataError, match="another file of the blend has 2"):
        loaders(DataSection(data_path=(prefix, other), split="1,0,0"))
    Path(f"{other}.json").write_text("{")
    with pytest.raises(DataError, match="other.json is not a manifest"):
        loaders(DataSection(data_path=(prefix, other), split="1,0,0"))


def test_a_manifest_that_fits_gives_the_end_of_document_id(prefix: str) -> None:
    write_manifest(prefix, eod_id=int(np.cumsum(LENGTHS)[4]))
    data = DataSection(data_path=(prefix,), split="1,0,0", eod_mask_loss=True)
    built = loaders(data, fingerprint="a" * 64)
    assert any((batch["loss_mask"] == 0).any() for batch in islice(built.train, 32))


def test_the_tokenizer_that_a_run_names() -> None:
    folder = Path(__file__).parents[4] / "examples" / "data" / "grok1_tokenizer"
    assert tokenizer_facts(TokenizerSection()) is None
    facts = tokenizer_facts(TokenizerSection(tokenizer_name_or_path=str(folder)))
    assert facts is not None and (facts.vocab_size, facts.eod_id) == (131_072, 2)
    llama = {"tokenizer_type": "Llama2Tokenizer"}
    file = str(folder / "tokenizer.model")
    assert tokenizer_facts(TokenizerSection(tokenizer_model=file, **llama)) == facts
    with pytest.raises(DataError, match="give the file, or --tokenizer-type PretrainedFromHF"):
        tokenizer_facts(TokenizerSection(tokenizer_model=str(folder), **llama))
    with pytest.raises(DataError, match="does not exist"):
        tokenizer_facts(TokenizerSection(tokenizer_name_or_path="absent"))
