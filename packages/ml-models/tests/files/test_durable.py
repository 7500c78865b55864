"""A file has its old or its new content, whatever happens while it is written."""

import io
from pathlib import Path

import pytest

from ml_models.files import durable
from ml_models.files.hashes import HashingStream, sha256_of

# sha256sum of "abc", from FIPS 180-2.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_old_content_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    durable.write_durably(path, "old\n")
    with pytest.raises(RuntimeError), durable.replacing(path) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old\n"
    with durable.replacing(path) as stream:
        stream.write(b"new\n")
        assert path.read_text() == "old\n"
    assert path.read_text() == "new\n" and [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_a_full_disk_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    durable.write_durably(path, "old\n")
    create = durable.create
    monkeypatch.setattr(durable, "create", lambda _: create(Path("/dev/full")))
    with pytest.raises(OSError, match="No space left"):
        durable.write_durably(path, "new\n")
    with pytest.raises(OSError, match="No space left"):
        durable.write_flushed(tmp_path / "other", b"new")
    assert path.read_text() == "old\n"


def test_checksums_of_files_and_streams(tmp_path: Path) -> None:
    durable.write_flushed(tmp_path / "abc", b"abc")
    durable.flush_file(tmp_path / "abc")
    assert sha256_of(tmp_path / "abc") == ABC
    inner = io.BytesIO()
    stream = HashingStream(inner)
    for part in (b"a", memoryview(b"bc")):
        stream.write(part)
    stream.flush()
    assert (stream.size, stream.sha256(), inner.getvalue()) == (3, ABC, b"abc")
