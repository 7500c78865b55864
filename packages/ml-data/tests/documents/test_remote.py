"""Remote inputs: an S3-compatible server on the loopback, and fsspec."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_data.documents.sources import find_sources
from ml_data.errors import InputError
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import files_of, write_lines

Make = Callable[..., TokenizeOptions]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Endpoint of a server with an empty bucket `data`."""
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        patch.setenv(name, value)
    yield f"region=us-east-1&scheme=http&endpoint_override={host}:{port}"
    patch.undo()
    server.stop()


def upload(query: str, files: dict[str, Path]) -> None:
    from pyarrow import fs

    remote, _ = fs.FileSystem.from_uri(f"s3://data?{query}&allow_bucket_creation=true")
    remote.create_dir("data")
    for name, path in files.items():
        with remote.open_output_stream(f"data/{name}") as stream:
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
        found = files_of(tmp_path / "out" / f"{name}_text_document")
        assert {s: found[s] for s in (".bin", ".idx")} == {s: expected[s] for s in (".bin", ".idx")}
        assert [one["path"] for one in manifest["inputs"]] == [
            "s3://data/in/a.parquet",
            "s3://data/in/b.jsonl",
        ]
        assert [one["sha256"] for one in manifest["inputs"]] == [
            one["sha256"] for one in local["inputs"]
        ]


def test_s3_errors(s3: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        find_sources([f"s3://data/missing.parquet?{s3}"])
    with pytest.raises(InputError, match="s3://no-such-bucket/x: no such file"):
        find_sources([f"s3://no-such-bucket/x?{s3}"])


def test_fsspec_file_system(tmp_path: Path, options: Make, sample: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/folder/a.parquet", sample.read_bytes())
    tokenize(options(sample, name="local"))
    tokenize(options("memory://folder/a.parquet", name="memory"))
    local, memory = (files_of(tmp_path / "out" / f"{n}_text_document") for n in ("local", "memory"))
    assert {s: local[s] for s in (".bin", ".idx")} == {s: memory[s] for s in (".bin", ".idx")}


def test_unknown_scheme() -> None:
    with pytest.raises(InputError, match="nowhere"):
        find_sources(["nowhere://x/a.parquet"])
