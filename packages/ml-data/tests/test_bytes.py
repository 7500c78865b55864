"""The whole chain against Megatron's own bytes and SentencePiece's own ids."""

import json
from pathlib import Path

import pytest

from ml_data.cli import main
from ml_data.indexed.reader import IndexedDataset
from ml_data.tokenizers import load_tokenizer

DATA = Path(__file__).parent / "data"
EXAMPLES = Path(__file__).parents[3] / "examples" / "data"


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("append_eod", [False, True])
def test_files_equal_megatrons(tmp_path: Path, append_eod: bool, workers: int) -> None:
    flags = ["--append-eod"] if append_eod else []
    code = main(
        [
            "tokenize",
            *("--input", str(EXAMPLES / "alpaca_sample.parquet")),
            *("--tokenizer-name-or-path", str(EXAMPLES / "grok1_tokenizer")),
            *("--output-prefix", str(tmp_path / "out" / "a.b")),
            *("--workers", str(workers), "--log-interval", "1000"),
            *("--tokenizer-type", "PretrainedFromHF", *flags),
        ]
    )
    assert code == 0
    prefix = tmp_path / "out" / "a.b_text_document"
    name = "alpaca_sample_text_document" if append_eod else "alpaca_sample_no_eod_text_document"
    for suffix in (".bin", ".idx"):
        assert Path(f"{prefix}{suffix}").read_bytes() == (DATA / f"{name}{suffix}").read_bytes()
    assert IndexedDataset(prefix).num_documents == 953
    assert sorted(path.name for path in prefix.parent.iterdir()) == [
        f"{prefix.name}{suffix}" for suffix in (".bin", ".idx", ".json")
    ]


def test_ids_equal_sentencepiece_on_every_case() -> None:
    tokenizer = load_tokenizer(EXAMPLES / "grok1_tokenizer")
    lines = (DATA / "grok1_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    assert len(cases) == 452
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"], case["name"]
