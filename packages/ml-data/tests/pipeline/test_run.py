"""Many kinds of input give the ids of their texts, row by row."""

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ml_data.errors import InputError
from ml_data.indexed.reader import IndexedDataset
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize
from ml_data.tokenizers import load_tokenizer

from ..conftest import files_of, write_lines, write_parquet

TEXTS = [f"text number {index}, \u4f60\u597d \n\n{'again ' * (index % 7)}" for index in range(400)]
Make = Callable[..., TokenizeOptions]


def documents(prefix: str | Path) -> list[list[int]]:
    """Ids of each document, in order."""
    data = IndexedDataset(prefix)
    marks = data.document_indices
    return [
        [int(number) for at in range(marks[index], marks[index + 1]) for number in data[at]]
        for index in range(data.num_documents)
    ]


@pytest.fixture(scope="module")
def expected(tokenizer_path: Path) -> list[list[int]]:
    reference = load_tokenizer(tokenizer_path, engine="sentencepiece")
    return [reference.encode(text) for text in TEXTS]


def compressed(path: Path, raw: bytes) -> Path:
    if path.suffix == ".gz":
        middle = len(raw) // 2
        path.write_bytes(gzip.compress(raw[:middle]) + gzip.compress(raw[middle:]))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(raw))
    elif path.suffix == ".bz2":
        path.write_bytes(bz2.compress(raw))
    else:
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2"])
def test_json_lines(tmp_path: Path, options: Make, expected: list[list[int]], name: str) -> None:
    raw = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)
    path = compressed(tmp_path / name, raw[:-1])  # the last line may lack its newline
    tokenize(options(path))
    assert documents(tmp_path / "out" / "p_text_document") == expected


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
def test_parquet_codecs(
    tmp_path: Path, options: Make, expected: list[list[int]], codec: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": TEXTS}, compression=codec)
    tokenize(options(path))
    assert documents(tmp_path / "out" / "p_text_document") == expected


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_types(
    tmp_path: Path, options: Make, expected: list[list[int]], kind: pa.DataType
) -> None:
    values = pa.array(TEXTS, pa.string()).cast(kind)
    path = write_parquet(tmp_path / "a.parquet", {"text": values}, row_group_size=150)
    tokenize(options(path))
    assert documents(tmp_path / "out" / "p_text_document") == expected


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_nested_column(
    tmp_path: Path, options: Make, expected: list[list[int]], suffix: str
) -> None:
    cells: list[Any] = [{"content": {"body": text, "id": 1}} for text in TEXTS]
    cells[3] = None
    cells[5] = {"content": None}
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        write_parquet(path, {"doc": cells})
    else:
        write_lines(path, [{"doc": cell} for cell in cells])
    (manifest,) = tokenize(options(path, json_keys=("doc.content.body",)))
    kept = [ids for index, ids in enumerate(expected) if index not in (3, 5)]
    assert documents(tmp_path / "out" / "p_doc.content.body_document") == kept
    assert sum(manifest.ledger.documents_dropped.values()) == 2


def test_several_keys_have_outputs_of_their_own(
    tmp_path: Path, options: Make, expected: list[list[int]]
) -> None:
    other: list[str | None] = [*TEXTS[::-1]]
    other[0] = None
    path = write_parquet(tmp_path / "a.parquet", {"text": TEXTS, "other": other})
    manifests = tokenize(options(path, json_keys=("text", "other"), workers=2))
    assert documents(tmp_path / "out" / "p_text_document") == expected
    assert documents(tmp_path / "out" / "p_other_document") == expected[::-1][1:]
    assert [manifest.ledger.documents_written for manifest in manifests] == [400, 399]


def test_files_directories_and_globs_in_the_order_given(
    tmp_path: Path, options: Make, expected: list[list[int]]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write_parquet(tmp_path / "z.parquet", {"text": TEXTS[:100]})
    write_lines(tmp_path / "in" / "b.jsonl", [{"text": text} for text in TEXTS[200:300]])
    write_parquet(tmp_path / "in" / "a.parquet", {"text": TEXTS[100:200]})
    write_lines(tmp_path / "in" / "deep" / "c.jsonl", [{"text": text} for text in TEXTS[300:]])
    (tmp_path / "in" / "README.md").write_text("not data")
    tokenize(options(tmp_path / "z.parquet", tmp_path / "in", name="one"))
    assert documents(tmp_path / "out" / "one_text_document") == expected
    pattern = tmp_path / "in" / "**" / "*.jsonl"
    tokenize(options(pattern, name="two"))
    assert documents(tmp_path / "out" / "two_text_document") == expected[200:]


def test_alpaca_schema_without_text_gives_the_bytes_of_the_text_column(
    tmp_path: Path, options: Make, sample: Path
) -> None:
    table = pq.read_table(sample)
    path = tmp_path / "a.parquet"
    pq.write_table(table.drop_columns(["text"]), path)
    notices: list[str] = []
    tokenize(options(path, name="made"), on_notice=notices.append)
    tokenize(options(sample, name="shipped"))
    assert "alpaca" in notices[0]
    lines = write_lines(tmp_path / "a.jsonl", table.drop_columns(["text"]).to_pylist())
    tokenize(options(lines, name="lines"))
    made, shipped, from_lines = (
        files_of(tmp_path / "out" / f"{name}_text_document")
        for name in ("made", "shipped", "lines")
    )
    for suffix in (".bin", ".idx"):
        assert made[suffix] == shipped[suffix] == from_lines[suffix]


def test_template_of_ones_own(tmp_path: Path, options: Make, tokenizer_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"q": ["a", None, "c"], "a": ["1", "2", "3"]})
    (manifest,) = tokenize(options(path, template="Q: {q}\\nA: {a}"))
    reference = load_tokenizer(tokenizer_path, engine="sentencepiece")
    assert documents(tmp_path / "out" / "p_text_document") == [
        reference.encode("Q: a\nA: 1"),
        reference.encode("Q: c\nA: 3"),
    ]
    assert manifest.ledger.documents_dropped == {"null": 1}


def test_empty_documents_keep_their_entry(tmp_path: Path, options: Make) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": ["", "one", "", "two", ""]})
    (manifest,) = tokenize(options(path, append_eod=True))
    data = IndexedDataset(tmp_path / "out" / "p_text_document")
    assert data.document_indices.tolist() == [0, 0, 1, 1, 2, 2]
    assert [int(ids[-1]) for ids in data] == [2, 2]
    assert manifest.ledger.documents_empty == 3


def test_widths_follow_megatrons_rule(tmp_path: Path, options: Make) -> None:
    import tokenizers

    words = {f"w{index}": index for index in range(70_000)}
    for size, dtype in ((65_499, np.uint16), (65_500, np.int32)):
        vocabulary = dict(list(words.items())[:size])
        model = tokenizers.models.WordLevel(vocabulary, unk_token="w0")
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        folder = tmp_path / f"words{size}"
        folder.mkdir()
        made.save(str(folder / "tokenizer.json"))
        path = write_lines(tmp_path / "a.jsonl", [{"text": f"w1 w{size - 1}"}])
        tokenize(options(path, name=f"v{size}", tokenizer_name_or_path=str(folder)))
        data = IndexedDataset(tmp_path / "out" / f"v{size}_text_document")
        assert data.dtype == dtype
        assert data[0].tolist() == [1, size - 1]


def test_damage_inside_a_file_is_named(tmp_path: Path, options: Make) -> None:
    path = write_parquet(
        tmp_path / "a.parquet", {"text": TEXTS}, row_group_size=100, use_dictionary=False
    )
    raw = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(2).column(0)
    start = group.data_page_offset
    raw[start : start + group.total_compressed_size] = bytes(group.total_compressed_size)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read after row 200: "):
        tokenize(options(path))
    packed = compressed(tmp_path / "a.jsonl.gz", b'{"text": "x"}\n' * 9999)
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: cannot be read after line \d+: "):
        tokenize(options(packed, name="q"))
    assert not list((tmp_path / "out").glob("*_document*"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: d / "missing.parquet", "no such file"),
        (lambda d: write_parquet(d / "a.parquet", {"body": ["x"]}), "no column 'text'"),
        (lambda d: write_parquet(d / "a.parquet", {"text": [1]}), "holds int64, not text"),
        (
            lambda d: write_parquet(d / "a.parquet", {"text": pa.array([], pa.string())}),
            "no tokens",
        ),
        (lambda d: write_lines(d / "a.jsonl", []), "is empty"),
        (lambda d: write_lines(d / "a.txt", ["x"]), "unknown kind of file"),
        (lambda d: write_lines(d / "a.parquet", ["x"]), "not a readable parquet"),
        (lambda d: write_lines(d / "a.json", [[{"text": "x"}]]), "one JSON array"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    tmp_path: Path, options: Make, make: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        tokenize(options(make(tmp_path)))
    assert not list((tmp_path / "out").glob("*") if (tmp_path / "out").exists() else [])
