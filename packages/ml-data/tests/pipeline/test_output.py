"""Rows without a usable text: the ledger, the quarantine and --on-error."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_data.documents import extract as extract_module
from ml_data.documents.batch import Batch, Position
from ml_data.documents.extract import extract
from ml_data.errors import InputError
from ml_data.indexed.reader import IndexedDataset
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize
from ml_data.tokenizers import load_tokenizer

from ..conftest import write_lines, write_parquet

Make = Callable[..., TokenizeOptions]

ROWS = [
    {"text": "good"},
    b"{not json",
    {"text": None},
    {"text": 5},
    {"other": "x"},
    b'{"text": "caf\xe9"}',
    b'{"text": "lone \\ud800"}',
    b"",
    [1, 2],
    {"text": "good again, and long " * 20},
    {"text": ""},
]


@pytest.mark.parametrize("workers", [1, 3])
def test_quarantine_keeps_bad_rows_with_their_reason(
    tmp_path: Path, options: Make, workers: int
) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROWS)
    (manifest,) = tokenize(options(path, workers=workers, batch_bytes=64, max_document_tokens=20))
    ledger = manifest.ledger
    assert ledger.documents_dropped == {"null": 1, "too_long": 1, "undecodable": 6}
    assert (ledger.documents_in, ledger.documents_written) == (10, 2)
    assert ledger.documents_empty == 1
    assert ledger.tokens_in == ledger.tokens_written + ledger.tokens_dropped
    assert ledger.tokens_dropped > 20
    quarantine = tmp_path / "out" / "p_text_document.quarantine.jsonl"
    rows = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5, 6, 8, 9]
    assert rows[0]["raw"] == "{not json"
    assert rows[0]["source"] == str(path)
    assert "raw_base64" in rows[4]
    assert quarantine.name in manifest.files


def test_stop_names_the_row_and_leaves_nothing(tmp_path: Path, options: Make) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(InputError, match=r"a\.jsonl, row 1, key 'text': undecodable"):
        tokenize(options(path, on_error="stop"))
    assert not list((tmp_path / "out").glob("*"))


def test_skip_counts_and_keeps_nothing(tmp_path: Path, options: Make) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROWS)
    (manifest,) = tokenize(options(path, on_error="skip"))
    assert sum(manifest.ledger.documents_dropped.values()) == 7
    assert not list((tmp_path / "out").glob("*quarantine*"))


def test_invalid_utf8_in_parquet(tmp_path: Path, options: Make) -> None:
    import pyarrow as pa

    raw = pa.array([b"good", b"bad \xff", b"good too"], pa.binary())
    values = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = write_parquet(tmp_path / "a.parquet", {"text": values})
    (manifest,) = tokenize(options(path))
    assert manifest.ledger.documents_dropped == {"undecodable": 1}
    assert IndexedDataset(tmp_path / "out" / "p_text_document").num_documents == 2


def test_null_cells(tmp_path: Path, options: Make) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": ["a", None, "b", None]})
    (manifest,) = tokenize(options(path))
    assert manifest.ledger.documents_dropped == {"null": 2}
    assert manifest.inputs[0].num_rows == 4


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(max_examples=300, deadline=None)
@given(st.text(), st.dictionaries(st.text(), _JSON, max_size=4), st.booleans(), st.binary())
def test_lines_give_the_texts_that_pythons_json_gives(
    text: str, others: dict[str, object], ascii_only: bool, noise: bytes
) -> None:
    rows = [{**others, "text": text}, {**others, "text": text, "number": 10**40}]
    lines = [json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "replace") for row in rows]
    lines += [lines[0][: len(noise)], noise, b'{"text": "' + noise + b'"}', b"\xef\xbb\xbf{}"]
    lines = [line.replace(b"\n", b" ") for line in lines]
    batch = Batch(
        source="x", first_row=0, num_rows=len(lines), lines=b"\n".join(lines), end=Position()
    )
    with pytest.MonkeyPatch.context() as patch:
        texts = extract(batch, "text", None)
        patch.setattr(extract_module, "_load_fast", extract_module._load)
        expected = extract(batch, "text", None)
    assert texts.values.to_pylist() == expected.values.to_pylist()
    assert list(texts.rows) == list(expected.rows)
    assert texts.bad == expected.bad


def test_a_template_shows_values_as_json_writes_them(tmp_path: Path, options: Make) -> None:
    rows = [{"n": 10**30}, {"n": True}, {"n": 0.5}, {"n": "\n"}, {"n": [1]}, {"n": {}}, {}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    (manifest,) = tokenize(options(path, template="{n}"))
    tokenizer = load_tokenizer(options(path).tokenizer_name_or_path)
    data = IndexedDataset(tmp_path / "out" / "p_text_document")
    shown = [tokenizer.decode(ids.tolist()) for ids in data]
    assert shown == [str(10**30), "true", "0.5", "\n"]
    assert manifest.ledger.documents_dropped == {"null": 1, "undecodable": 2}
    quarantine = (tmp_path / "out" / "p_text_document.quarantine.jsonl").read_text()
    assert "field 'n' holds a list, a text or number was expected" in quarantine
