"""Remote inputs: an S3-compatible server on the loopback, and fsspec."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ml_data.documents.sources import resolve
from ml_data.errors import InputError
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.progress import ProgressUpdate
from ml_data.pipeline.run import tokenize

from ...conftest import files_of, write_lines
from .s3_server import s3_server

Make = Callable[..., TokenizeOptions]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The query of a URI that leads to a server."""
    with s3_server() as (_, query):
        yield query


def upload(query: str, files: dict[str, Path]) -> None:
    from pyarrow import fs

    remote, _ = fs.FileSystem.from_uri(f"s3://data?{query}&allow_bucket_creation=true")
    remote.create_dir("data")
    for name, path in files.items():
        with remote.open_output_stream(f"data/{name}", compression=None) as stream:
            stream.write(path.read_bytes())


def test_s3(tmp_path: Path, options: Make, sample: Path, s3: str) -> None:
    lines = write_lines(tmp_path / "b.jsonl", [{"text": f"line {index}"} for index in range(500)])
    upload(s3, {"in/a.parquet": sample, "in/b.jsonl": lines, "in/notes.txt": lines})
    (local,) = tokenize(options(sample, lines, name="local"))
    cases: dict[str, Any] = {
        "files": [f"s3://data/in/a.parquet?{s3}", f"s3://data/in/b.jsonl?{s3}"],
        "folder": [f"s3://data/in?{s3}"],
        "glob": [f"s3://data/in/*.parquet?{s3}", f"s3://data/i*/b.jsonl?{s3}"],
    }
    expected = files_of(tmp_path / "out" / "local_text_document")
    for name, inputs in cases.items():
        (manifest,) = tokenize(options(*inputs, name=name, workers=2))
        contents = files_of(tmp_path / "out" / f"{name}_text_document")
        assert {s: contents[s] for s in (".bin", ".idx")} == {
            s: expected[s] for s in (".bin", ".idx")
        }
        assert [entry.path for entry in manifest.inputs] == [
            "s3://data/in/a.parquet",
            "s3://data/in/b.jsonl",
        ]
        assert [entry.sha256 for entry in manifest.inputs] == [
            entry.sha256 for entry in local.inputs
        ]


def test_s3_errors(s3: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        resolve([f"s3://data/missing.parquet?{s3}"])
    with pytest.raises(InputError, match="s3://no-such-bucket/x: no such file"):
        resolve([f"s3://no-such-bucket/x?{s3}"])


def test_fsspec_file_system(tmp_path: Path, options: Make, sample: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/folder/a.parquet", sample.read_bytes())
    tokenize(options(sample, name="local"))
    tokenize(options("memory://folder/a.parquet", name="memory"))
    local, memory = (files_of(tmp_path / "out" / f"{n}_text_document") for n in ("local", "memory"))
    assert {s: local[s] for s in (".bin", ".idx")} == {s: memory[s] for s in (".bin", ".idx")}


def test_unknown_scheme() -> None:
    with pytest.raises(InputError, match="nowhere"):
        resolve(["nowhere://x/a.parquet"])


def test_a_remote_run_goes_on_after_a_crash(
    tmp_path: Path, options: Make, sample: Path, s3: str
) -> None:
    lines = write_lines(
        tmp_path / "b.jsonl", [{"text": f"line {index} " * 9} for index in range(900)]
    )
    packed = tmp_path / "c.jsonl.zst"
    packed.write_bytes(zstandard.compress(lines.read_bytes()))
    files = {"again/a.parquet": sample, "again/b.jsonl": lines, "again/c.jsonl.zst": packed}
    upload(s3, files)
    tokenize(options(sample, lines, packed, name="local", append_eod=True))
    expected = files_of(tmp_path / "out" / "local_text_document")
    made = options(f"s3://data/again?{s3}", append_eod=True, log_interval=100, workers=2)
    crashes = 0

    class CrashError(Exception):
        pass

    while True:
        ticks: list[ProgressUpdate] = []

        def crash(tick: ProgressUpdate, ticks: list[ProgressUpdate] = ticks) -> None:
            ticks.append(tick)
            if len(ticks) == 4:
                raise CrashError

        try:
            tokenize(made, on_progress=crash)
            break
        except CrashError:
            crashes += 1
            assert crashes < 30
    assert crashes >= 3
    contents = files_of(tmp_path / "out" / "p_text_document")
    assert {s: contents[s] for s in (".bin", ".idx")} == {s: expected[s] for s in (".bin", ".idx")}


@pytest.mark.parametrize("moment", ["listing", "opening", "reading"])
def test_whatever_a_remote_file_system_raises_is_one_sentence(
    tmp_path: Path, options: Make, sample: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bad/a.parquet", sample.read_bytes())

    class NetworkError(Exception):
        pass

    def fail(*_: object, **__: object) -> None:
        raise NetworkError("the line went dead")

    if moment == "reading":
        # The footer is read first, with the columns; a later read fails.
        opened = type(memory.open("/bad/a.parquet"))
        reads = 0

        def read(self: Any, *args: Any) -> bytes:
            nonlocal reads
            reads += 1
            if reads > 4:
                fail()
            return io.BytesIO.read(self, *args)

        monkeypatch.setattr(opened, "read", read, raising=False)
    else:
        monkeypatch.setattr(type(memory), "info" if moment == "listing" else "_open", fail)
    with pytest.raises(InputError, match=r"bad/a\.parquet.*NetworkError: the line went dead"):
        tokenize(options("memory://bad/a.parquet", input_checksums="none"))
    assert not list((tmp_path / "out").glob("*_document*"))
