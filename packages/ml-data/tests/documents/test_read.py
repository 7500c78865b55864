"""Damages of parquet files are seen, and named after the last row that was read well."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_data.documents.batch import Position, Segment
from ml_data.documents.read import read_source
from ml_data.documents.sources import resolve
from ml_data.errors import InputError

ROWS = 3000


def write(path: Path, *, checksums: bool = True) -> Path:
    table = pa.table({"text": [f"row number {n}" for n in range(ROWS)]})
    pq.write_table(
        table, path, compression="none", use_dictionary=False, row_group_size=1000,
        write_page_checksum=checksums,
    )  # fmt: skip
    return path


def read(path: Path, start_row: int = 0) -> list[str]:
    (source,) = resolve([str(path)]).sources
    segment = Segment(file=0, start=Position(row=start_row))
    batches = read_source(source, segment, ["text"], 4096)
    return [text for batch in batches for text in batch.columns.column(0).to_pylist()]


def test_a_bit_that_flipped_is_seen_where_pages_have_checksums(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    assert len(read(path)) == ROWS
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"row number 1500", b"row numbex 1500"))
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read after row 1000: .*CRC"):
        read(path)
    assert read(path, 2000)[0] == "row number 2000"


def test_a_row_group_that_is_shorter_than_the_footer_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet")
    batches = pq.ParquetFile.iter_batches

    def lose_the_last(self: pq.ParquetFile, **options: object) -> object:
        yield from list(batches(self, **options))[:-1]

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lose_the_last)
    with pytest.raises(InputError, match=r"row group 0 ends after row \d+, .* promises 1000"):
        read(path)


def test_a_file_without_a_byte_has_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").touch()
    sources = resolve([str(tmp_path)]).sources
    segment = Segment(file=1, start=Position())
    assert list(read_source(sources[1], segment, ["text"], 4096)) == []
