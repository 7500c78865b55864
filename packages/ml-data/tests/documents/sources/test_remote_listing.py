"""The rules of a folder on a disk hold for a bucket and for file systems of fsspec."""

from collections.abc import Callable, Iterator

import pytest

from ml_data.documents.sources import resolve
from ml_data.errors import InputError

from .s3_server import s3_server

NAMES = [
    "a.jsonl", "part=1/b.parquet", "part=1/deep/c.json.gz", "part-2/d[1].jsonl",
    "_temporary/0/e.jsonl", "part=1/._b.parquet", "README.md", "dataset_infos.json",
    "old_text_document.bin", "old_text_document.json", "old_text_document.quarantine.jsonl",
]  # fmt: skip
READ = ["a.jsonl", "part-2/d[1].jsonl", "part=1/b.parquet", "part=1/deep/c.json.gz"]
PATTERNS = {
    "": READ,
    "/**": READ,
    "/*": READ,
    "/**/*.jsonl": READ[:2],
    "/*/*.parquet": READ[2:3],
    "/part*/**/*.gz": READ[3:],
    "/part-2/d[1].jsonl": READ[1:2],
    "/_temp*/**": ["_temporary/0/e.jsonl"],
    "/part?1/[a-c].parquet": READ[2:3],
}


@pytest.fixture(scope="module")
def s3() -> Iterator[Callable[[str], str]]:
    with s3_server() as (remote, query):
        # Servers of one process share their buckets.
        remote.create_dir("listing")
        uri = f"s3://listing{{}}?{query}"
        yield fill(lambda name: remote.open_output_stream(f"listing/{name}"), uri)


@pytest.fixture(scope="module")
def memory() -> Callable[[str], str]:
    fsspec = pytest.importorskip("fsspec")
    opened = fsspec.filesystem("memory")
    return fill(lambda name: opened.open(f"/listed/{name}", "wb"), "memory://listed{}")


def fill(open_file: Callable, uri: str) -> Callable[[str], str]:
    for name in NAMES:
        with open_file(f"in/{name}") as file:
            manifest = name == "old_text_document.json"
            file.write(b'{"format": "ml-data manifest"}' if manifest else b'{"text": "x"}\n')
    with open_file("bracket/x[2]/f.jsonl") as file:
        file.write(b'{"text": "x"}\n')
    with open_file("caf\u00e9 1/a b.jsonl") as file:
        file.write(b'{"text": "x"}\n')
    for name in ("empty/a.jsonl", "empty/b.jsonl", "mixed/a.jsonl"):
        with open_file(name):
            pass
    with open_file("mixed/b.jsonl") as file:
        file.write(b'{"text": "x"}\n')
    return uri.format


@pytest.fixture(params=["s3", "memory"])
def at(request: pytest.FixtureRequest) -> Callable[[str], str]:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(at: Callable[[str], str], pattern: str) -> None:
    listing = resolve([at(f"/in{pattern}")])
    assert [entry.name.split("/in/")[1] for entry in listing.sources] == PATTERNS[pattern]
    if pattern in ("", "/**", "/*"):
        reasons = {entry.name.split("/in/")[1]: entry.reason for entry in listing.left_out}
        assert set(reasons) == set(NAMES) - set(READ) - {"_temporary/0/e.jsonl"} | {"_temporary/"}
        assert "hidden or temporary" in reasons["_temporary/"]
        assert "endings are not known" in reasons["README.md"]
        assert "ml-data wrote" in reasons["old_text_document.json"]
        assert "describe a data set" in reasons["dataset_infos.json"]


def test_twice_and_empty(at: Callable[[str], str]) -> None:
    for other in ("/in", "/in/*.jsonl", "/in/a.jsonl"):
        with pytest.raises(InputError, match=r"a\.jsonl is named twice, by .*/in/a\.jsonl and by"):
            resolve([at("/in/a.jsonl"), at(other)])
    assert len(resolve([at("/mixed")]).sources) == 2
    for name in ("/empty", "/empty/a.jsonl"):
        with pytest.raises(InputError, match="is empty"):
            resolve([at(name)])
    with pytest.raises(InputError, match=r"unknown kind of file"):
        resolve([at("/in/README.md")])
    with pytest.raises(InputError, match=r"no such file.*not read: .*README\.md"):
        resolve([at("/in/*.md")])


def test_a_folder_that_cannot_be_listed_is_an_error(
    memory: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec's general listing, that of sftp for example, leaves such a folder out."""
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.spec import AbstractFileSystem

    ls = MemoryFileSystem.ls

    def refuse(self: MemoryFileSystem, path: str, **options: object) -> object:
        if path.endswith("deep"):
            raise PermissionError("no permission")
        return ls(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)
    with pytest.raises(InputError, match="in: cannot be listed: .*no permission"):
        resolve([memory("/in")])
    assert len(resolve([memory("/in/*.jsonl")]).sources) == 1


def test_a_server_may_read_two_names_as_one(s3: Callable[[str], str]) -> None:
    for other in ("/in/./a.jsonl", "/in/../in/a.jsonl"):
        with pytest.raises(InputError, match=r"is the file .*/in/a\.jsonl and is named twice"):
            resolve([s3("/in/a.jsonl"), s3(other)])


def test_names_with_spaces_and_accents(at: Callable[[str], str]) -> None:
    for given in ("/caf\u00e9 1", "/caf\u00e9 1/a b.jsonl", "/caf\u00e9 1/*", "/caf*/*.jsonl"):
        (source,) = resolve([at(given)]).sources
        assert source.name.endswith("/caf\u00e9 1/a b.jsonl")


def test_a_folder_with_brackets_in_its_name(at: Callable[[str], str]) -> None:
    (source,) = resolve([at("/bracket/x[2]")]).sources
    assert source.name.endswith("/x[2]/f.jsonl")


def test_messages_show_no_keys(s3: Callable[[str], str]) -> None:
    with pytest.raises(InputError) as raised:
        resolve([s3("/missing")])
    assert "endpoint_override" not in str(raised.value)


def test_an_object_of_unknown_size(memory: Callable[[str], str]) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    info = MemoryFileSystem.info
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            MemoryFileSystem, "info", lambda self, path: {**info(self, path), "size": None}
        )
        with pytest.raises(InputError, match="does not tell its size"):
            resolve([memory("/in/a.jsonl")])
