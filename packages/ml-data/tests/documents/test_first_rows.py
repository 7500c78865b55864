"""Errors of the first hour: the message names the reason, what the file holds, and what to do."""

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ml_data.documents.extract import WantedTexts
from ml_data.documents.schema import check_sources
from ml_data.documents.sources import resolve
from ml_data.documents.template import get_template
from ml_data.errors import InputError
from ml_data.pipeline.estimate import estimate
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import write_lines

Make = Callable[..., TokenizeOptions]
GOOD = b'{"text": "a text"}\n'
CHAT = {"messages": [{"role": "user", "content": "x"}]}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 99\n"


def check(
    *paths: Path, keys: tuple[str, ...] = ("text",), template: str | None = None, stop: bool = False
) -> list[str]:
    """Notices of the check. Raises InputError."""
    notices: list[str] = []
    wanted = WantedTexts(keys=keys, template=get_template(template) if template else None)
    sources = resolve(list(map(str, paths))).sources
    check_sources(sources, wanted, tolerate=not stop, notice=notices.append)
    return notices


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def packed(content: bytes) -> bytes:
    """gzip data without the time of day: a test that is named by it has the same name each time."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", lines({"body": "x", "id": 1}), "no key 'text'; it has: body, id.*keys body"),
        ("a.jsonl", lines({"q": "x", "a": "y"}), r"no key 'text'; it has: q, a.*'\{q\} \{a\}'"),
        ("a.jsonl", lines({"doc": {"body": "x"}}), "it has: doc.*--json-keys doc.body"),
        ("a.jsonl", lines({"my text": "x"}), r"as in --json-keys 'my text'$"),
        ("a.jsonl", lines({f"k{n}": 1 for n in range(99)}), "k18, k19 and 79 more"),
        ("a.jsonl", lines({"text": {"en": "x"}}), "expected, not dict.*--json-keys text.en"),
        ("a.jsonl", lines(CHAT), "it has: messages.*holds a chat.*chat template"),
        ("a.jsonl", lines({"data": [{"text": "x"}]}), r"it has: data.*jq -c '\.data\[\]'"),
        ("a.jsonl", lines({"text": ["x"]}), "a text was expected, not list"),
        (
            "a.jsonl",
            lines("x", "y"),
            r"an object|object was expected, not str.*jq -c '\{text: \.\}'",
        ),
        ("a.jsonl", b"id,text\n1,x\n", "Expecting value.*one object a line"),
        ("a.jsonl", b'{"text": "x"},\n' * 3, "Extra data.*no comma after an object"),
        ("a.jsonl", b'{"text": "x"}{"text": "y"}\n', "Extra data.*jq -c . FILE"),
        ("a.jsonl", b'{"text": "x"}\r{"text": "y"}\r', "Extra data"),
        ("a.jsonl", '{"text": "caf\xe9"}\n'.encode("latin-1"), "can't decode.*UTF-8: iconv"),
        ("a.jsonl", GOOD.decode().encode("utf-16"), "text in UTF-16, .*iconv -f UTF-16 -t UTF-8"),
        ("a.jsonl", GOOD.decode().encode("utf-16-le"), "text in UTF-16LE"),
        ("a.jsonl", GOOD.decode().encode("utf-16-be"), "text in UTF-16BE"),
        ("a.jsonl", GOOD.decode().encode("utf-32"), "text in UTF-32"),
        ("a.jsonl", packed(GOOD), r"gzip data, not JSON lines. Rename it to a\.jsonl\.gz"),
        ("a.jsonl", zstandard.compress(GOOD), r"zstd data.*Rename it to a\.jsonl\.zst"),
        ("a.jsonl.gz", bz2.compress(GOOD), r"bz2 data, not gzip data. Rename it to a\.jsonl\.bz2"),
        ("a.jsonl.gz", GOOD, r"plain text, not gzip data. Rename it to a\.jsonl"),
        ("a.jsonl.gz", packed(b" \n[" + GOOD + b"]"), r"one JSON array.*jq -c '\.\[\]'"),
        ("a.jsonl.gz", packed("{}".encode("utf-16")), "UTF-16 in gzip data, not JSON lines"),
        ("a.jsonl.gz", packed(packed(GOOD)), "gzip data in gzip data.*Unpack it"),
        ("a.parquet", packed(GOOD), "not a readable parquet.*gzip data. Unpack it"),
        ("a.json", json.dumps({"text": "x"}, indent=2).encode() * 2, "over several lines.*jq -c"),
        ("a.json", json.dumps({"text": "x" * 400_000}, indent=1).encode(), "over several lines"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html>\n", "an HTML or XML page.*get it again"),
        ("a.jsonl", b"PK\x03\x04" + bytes(60), "a zip archive"),
        ("a.jsonl", POINTER, "Git LFS pointer, not the data: fetch it with `git lfs pull`"),
        ("a.jsonl.zst", POINTER, "Git LFS pointer"),
        ("a.parquet", POINTER, "Git LFS pointer"),
        ("a.parquet", GOOD, "not a readable parquet file: it holds JSON. Rename it to .jsonl"),
        ("a.parquet", b"<html>", "not a readable parquet file: it holds an HTML or XML page"),
        ("a.jsonl", b'{"text": "a", "x": 1, "text": "b"}\n', "row 0 has the key 'text' twice"),
    ],
)
def test_what_holds_no_texts(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"a\\.(json|parquet).*(?s:{words})"):
        check(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD,
        b"\n\n" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        b"{broken\n" * 50 + GOOD,
        lines(*[{"text": None}] * 50),
        lines({"text": ""}),
        b'{"meta": {"text": 1}, "text": "x"}\n',
        json.dumps({"text": "x" * 700_000}).encode(),
    ],
)
def test_what_is_left_to_the_run(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    assert check(tmp_path / "a.jsonl") == []


def test_books_of_one_line_are_judged_as_well(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"body": "x" * 700_000}] * 2)
    with pytest.raises(InputError, match="no key 'text'; it has: body"):
        check(path)


def test_template_fields_that_no_row_has(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"question": "x", "answer": None}] * 3)
    with pytest.raises(InputError, match="no 'questoin'; it has: question, answer"):
        check(path, template="{questoin}")
    assert check(path, template="{question} {answer}") == []


def test_a_few_bad_rows_in_a_small_file_are_a_notice(tmp_path: Path) -> None:
    good = write_lines(tmp_path / "good.jsonl", [{"text": "x"}] * 3)
    small = write_lines(tmp_path / "small.jsonl", [{"n": 1}])
    (notice,) = check(good, small)
    assert "small.jsonl: none of its 1 rows holds a text" in notice
    with pytest.raises(InputError, match="small"):
        check(good, small, stop=True)
    with pytest.raises(InputError, match="small"):
        check(small)
    large = write_lines(tmp_path / "large.jsonl", [{"n": "x" * 100}] * 5000)
    with pytest.raises(InputError, match=r"large\.jsonl: none of its first 1,000 rows"):
        check(good, large)


def test_bytes_in_parquet_that_are_no_texts(tmp_path: Path) -> None:
    pictures = pa.table({"text": pa.array([b"\x89PNG" + bytes([n]) for n in range(200)] * 1000)})
    path = tmp_path / "a.parquet"
    pq.write_table(pictures, path)
    with pytest.raises(InputError, match="none of the first .* cells of bytes .* is a text.*UTF-8"):
        check(path)
    pq.write_table(pictures.slice(0, 3), path)
    with pytest.raises(InputError, match="none of the first 3 cells"):
        check(path)
    good = write_lines(tmp_path / "good.jsonl", [{"text": "x"}])
    assert len(check(path, good)) == 1
    pq.write_table(pa.table({"text": pa.array([b"\x89PNG", None, b"x"])}), path)
    assert check(path) == []


def test_a_file_of_another_kind_in_a_folder_can_be_left_out(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"text": "x"}])
    (tmp_path / "about.json").write_text(json.dumps({"rows": 1}, indent=2))
    with pytest.raises(InputError, match=r"about\.json holds .*Or leave it out: name the other"):
        check(tmp_path)


def test_every_key_is_checked(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x"}] * 3)
    with pytest.raises(InputError, match="no key 'title'; it has: text"):
        check(path, keys=("text", "title"))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"body": ["x"], "n": [1]}, "no column 'text'; it has: body, n. .* as in --json-keys body"),
        ({"messages": [CHAT["messages"]]}, "no column 'text'; it has: messages.*holds a chat"),
        ({"text": [[1]]}, "holds list<.*>, not text"),
        ({"text": [1]}, "holds int64, not text.*--template"),
    ],
)
def test_parquet_columns(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=words):
        check(tmp_path / "a.parquet")


def test_a_column_name_that_stands_twice(tmp_path: Path) -> None:
    values = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays(values, names=["text", "text", "x"]), path)
    with pytest.raises(InputError, match="has 2 columns 'text'.*rename"):
        check(path)
    assert check(path, keys=("x",)) == []


def test_the_run_and_the_dry_run_fail_before_anything_is_written(
    tmp_path: Path, options: Make
) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"content": "x" * 400}] * 5000)
    for start in (tokenize, lambda made: estimate(made, print)):
        with pytest.raises(InputError, match="no key 'text'; it has: content"):
            start(options(path))
    assert not (tmp_path / "out").exists()


def test_rows_that_are_all_null_are_told_with_what_is_left(tmp_path: Path, options: Make) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": None, "pad": "x" * 100}] * 2000)
    with pytest.raises(InputError, match=r"row 0: the cell is null.*set aside is in .*p\.work"):
        tokenize(options(path))
    with pytest.raises(InputError, match="hold no text, so nothing can be estimated"):
        estimate(options(path), print)
