"""Columns of parquet that hold texts under another type, as other writers leave them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_data.documents.batch import Position, Segment
from ml_data.documents.extract import ExtractedTexts, WantedTexts, extract
from ml_data.documents.read import read_source
from ml_data.documents.schema import check_sources
from ml_data.documents.sources import resolve
from ml_data.documents.template import get_template
from ml_data.errors import InputError

TEXTS = ["first", "caf\u00e9 \u4f60\u597d", ""]
BYTES = [text.encode() for text in TEXTS]


def texts_of(path: Path, key: str = "text", template: str | None = None) -> ExtractedTexts:
    wanted = WantedTexts(keys=(key,), template=get_template(template) if template else None)
    sources = resolve([str(path)]).sources
    check_sources(sources, wanted, tolerate=True, notice=print)
    segment = Segment(file=0, start=Position())
    (batch,) = read_source(sources[0], segment, wanted.columns, 1 << 22)
    return extract(batch, key, wanted.template)


def write(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "values",
    [
        pa.array(BYTES, pa.binary()),
        pa.array(BYTES, pa.large_binary()),
        pa.array(BYTES, pa.binary()).dictionary_encode(),
        pa.array(TEXTS, pa.large_string()),
        *([pa.array(TEXTS, pa.string_view())] if hasattr(pa, "string_view") else []),
        *([pa.array(BYTES, pa.binary_view())] if hasattr(pa, "binary_view") else []),
    ],
    ids=lambda values: str(values.type),
)
def test_texts_under_other_types(tmp_path: Path, values: pa.Array) -> None:
    assert texts_of(write(tmp_path / "a.parquet", text=values)).values.to_pylist() == TEXTS


def test_bytes_of_fixed_size(tmp_path: Path) -> None:
    values = pa.array([b"abc", "d\u00e9".encode(), None], pa.binary(3))
    texts = texts_of(write(tmp_path / "a.parquet", text=values))
    assert texts.values.to_pylist() == ["abc", "d\u00e9"]
    assert [row["reason"] for row in texts.bad] == ["null"]


def test_bytes_inside_a_struct(tmp_path: Path) -> None:
    values = pa.array([{"body": b"x"}, None, {"body": b"\xff"}])
    texts = texts_of(write(tmp_path / "a.parquet", doc=values), "doc.body")
    assert texts.values.to_pylist() == ["x"]
    assert [row["reason"] for row in texts.bad] == ["null", "undecodable"]


def test_bytes_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    values = pa.array([b"good", b"\x89PNG\r\n", b"good too"])
    texts = texts_of(write(tmp_path / "a.parquet", text=values))
    assert texts.values.to_pylist() == ["good", "good too"]
    assert [(row["row"], row["reason"]) for row in texts.bad] == [(1, "undecodable")]


@pytest.mark.skipif(not hasattr(pa, "json_"), reason="this Arrow has no JSON type")
def test_json_is_taken_as_it_stands(tmp_path: Path) -> None:
    values = pa.array(['{"a": 1}', '"x"', None], pa.json_())
    texts = texts_of(write(tmp_path / "a.parquet", text=values))
    assert texts.values.to_pylist() == ['{"a": 1}', '"x"']


def test_a_template_shows_numbers_and_bytes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        n=pa.array([1, 2]), x=pa.array([0.5, None]), b=pa.array([True, False]),
        t=pa.array([b"ok", b"\xff"]),
    )  # fmt: skip
    texts = texts_of(path, template="{n} {b} {t}")
    assert texts.values.to_pylist() == ["1 true ok"]
    assert texts.bad[0]["raw"] == {"n": 2, "b": False, "t": "\\xff"}
    assert texts_of(path, template="{x}").values.to_pylist() == ["0.5"]


def test_other_types_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=pa.array([1], pa.timestamp("s")))
    for template in (None, "{text}"):
        with pytest.raises(InputError, match="holds timestamp.*, not text"):
            texts_of(path, template=template)
