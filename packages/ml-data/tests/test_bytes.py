"""The chain documents -> tokenizer -> writer against Megatron's own bytes."""

import json
from pathlib import Path

import numpy as np
import pytest

from ml_data.documents.read import read_batches
from ml_data.indexed.layout import best_dtype
from ml_data.indexed.reader import IndexedDataset
from ml_data.indexed.writer import IndexedDatasetWriter
from ml_data.tokenizers import load_tokenizer

DATA = Path(__file__).parent / "data"
EXAMPLES = Path(__file__).parents[3] / "examples" / "data"


@pytest.mark.parametrize("append_eod", [False, True])
def test_files_equal_megatrons(tmp_path: Path, append_eod: bool) -> None:
    tokenizer = load_tokenizer(EXAMPLES / "grok1_tokenizer")
    prefix = tmp_path / "alpaca_text_document"
    writer = IndexedDatasetWriter(prefix, best_dtype(tokenizer.vocab_size))
    for batch in read_batches(EXAMPLES / "alpaca_sample.parquet", "text", 100):
        for text in batch.values.to_pylist():
            ids = tokenizer.encode(text) + ([2] if append_eod else [])
            writer.add_batch(np.array(ids, np.int32), np.array([len(ids)]))
    writer.finalize()
    name = "alpaca_sample_text_document" if append_eod else "alpaca_sample_no_eod_text_document"
    for suffix in (".bin", ".idx"):
        assert (prefix.with_name(prefix.name + suffix)).read_bytes() == (
            DATA / f"{name}{suffix}"
        ).read_bytes()
    assert IndexedDataset(prefix).num_documents == 953


def test_ids_equal_sentencepiece_on_every_case() -> None:
    tokenizer = load_tokenizer(EXAMPLES / "grok1_tokenizer")
    lines = (DATA / "grok1_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    assert len(cases) == 452
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"], case["name"]
