"""One list: every file that an input names is read once, is an error, or is left out and told."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_data.documents.sources import InputListing, resolve
from ml_data.documents.sources.names import files_of_run
from ml_data.errors import InputError

LINE = b'{"text": "some text"}\n'


def make(folder: Path, *names: str) -> Path:
    """Files of one row each, their content different by name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(LINE.replace(b"some", name.encode()))
    return folder


def read(listing: InputListing, folder: Path) -> list[str]:
    return [os.path.relpath(source.name, folder) for source in listing.sources]


def passed(listing: InputListing, folder: Path) -> list[str]:
    return [entry.name.removeprefix(f"{folder}/") for entry in listing.left_out]


@pytest.mark.parametrize(
    "given", [".", "*", "**", "**/*", "a*", "a", "./a", "a/../a", "a/", "?", "[a]", "*/"]
)
def test_a_folder_reads_the_same_whichever_way_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    make(tmp_path, "a/1.jsonl", "a/b/2.parquet", "a-b/3.jsonl")
    monkeypatch.chdir(tmp_path)
    expected = {"a/1.jsonl", "a/b/2.parquet", "a-b/3.jsonl"}
    if given not in (".", "*", "**", "**/*", "a*", "*/"):
        expected.remove("a-b/3.jsonl")
    assert set(read(resolve([given]), tmp_path)) == expected


def test_files_are_sorted_folder_by_folder(tmp_path: Path) -> None:
    make(tmp_path, "a-b/3.jsonl", "a/1.jsonl", "a/b/2.jsonl", "a.jsonl")
    ordered = ["a/1.jsonl", "a/b/2.jsonl", "a-b/3.jsonl", "a.jsonl"]
    for given in (str(tmp_path), f"{tmp_path}/**", f"{tmp_path}/*", f"file://{tmp_path}"):
        assert read(resolve([given]), tmp_path) == ordered


@pytest.mark.parametrize("pattern", ["", "/**/*.jsonl", "/*", "/**"])
def test_linked_folders_are_followed_and_cycles_are_not(tmp_path: Path, pattern: str) -> None:
    make(tmp_path, "real/a.jsonl", "elsewhere/b.jsonl")
    (tmp_path / "real" / "0-shard").symlink_to("../elsewhere")
    (tmp_path / "real" / "self").symlink_to(".")
    (tmp_path / "elsewhere" / "back").symlink_to("../real")
    listing = resolve([f"{tmp_path}/real{pattern}"])
    assert read(listing, tmp_path) == ["real/0-shard/b.jsonl", "real/a.jsonl"]


def test_a_file_keeps_its_real_name_where_links_lead_to_it(tmp_path: Path) -> None:
    make(tmp_path, "z/data/a.jsonl")
    (tmp_path / "z" / "0.jsonl").symlink_to("data/a.jsonl")
    (tmp_path / "z" / "0-data").symlink_to("data")
    listing = resolve([str(tmp_path)])
    assert read(listing, tmp_path) == ["z/data/a.jsonl"]
    assert sorted(passed(listing, tmp_path)) == ["z/0-data/", "z/0.jsonl"]
    assert "z/data/a.jsonl" in " ".join(listing.notices())


@pytest.mark.parametrize("target", ["../nowhere/b.jsonl", "b.jsonl"])
@pytest.mark.parametrize("pattern", ["", "/*.jsonl", "/b.jsonl", "/**/b*"])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path, target: str, pattern: str) -> None:
    make(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to(target)
    with pytest.raises(InputError, match=r"b\.jsonl"):
        resolve([f"{tmp_path}{pattern}"])


@pytest.mark.parametrize("pattern", ["", "/**", "/**/*.jsonl", "/*", "/*/*.jsonl"])
def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Permissions do not stop root, so the system call fails by itself here."""
    make(tmp_path, "a.jsonl", "locked/b.jsonl")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="locked: the folder cannot be listed: Permission denied"):
        resolve([f"{tmp_path}{pattern}"])
    assert read(resolve([f"{tmp_path}/*.jsonl"]), tmp_path) == ["a.jsonl"]


def test_endings(tmp_path: Path) -> None:
    known = ["a.jsonl", "b.json", "c.ndjson", "d.pq", "e.PARQUET", "f.jsonl.gz", "g.json.gzip"]
    known += ["h.jsonl.zst", "i.jsonl.zstd", "j.jsonl.bz2", "k.jsonl.xz", "l.jsonl.lz4"]
    known += ["o.parquet.gzip"]  # as pandas' own example names it; the pages are compressed
    unknown = ["README.md", "m.gz", "n.jsonl.gz.gz", "o.csv", "p.jsonl.tmp", "part-00000"]
    make(tmp_path, *known, *unknown)
    listing = resolve([str(tmp_path)])
    assert read(listing, tmp_path) == sorted(known)
    assert passed(listing, tmp_path) == sorted(unknown)
    (notice,) = listing.notices()
    assert "README.md" in notice
    assert "and 1 more" in notice
    assert "endings are not known" in notice
    for name in unknown:
        with pytest.raises(InputError, match="unknown kind of file; known endings"):
            resolve([str(tmp_path / name)])
    with pytest.raises(InputError, match=r"below it; not read: .*README\.md \(their endings"):
        resolve([f"{tmp_path}/*.md"])


def test_hidden_and_temporary_names(tmp_path: Path) -> None:
    hidden = ["_temporary/0/a.jsonl", ".ipynb_checkpoints/a-checkpoint.json", "._a.parquet"]
    hidden += ["_delta_log/0.json", "deep/_tmp.jsonl", "_SUCCESS", ".a.jsonl.crc"]
    make(tmp_path, "a.jsonl", "_day=1/b.jsonl", "deep/c.jsonl", *hidden)
    told = {"_temporary/", ".ipynb_checkpoints/", "._a.parquet", "_delta_log/", "deep/_tmp.jsonl"}
    for given in (f"{tmp_path}", f"{tmp_path}/**", f"{tmp_path}/*"):
        listing = resolve([given])
        assert read(listing, tmp_path) == ["_day=1/b.jsonl", "a.jsonl", "deep/c.jsonl"]
        assert set(passed(listing, tmp_path)) == told
    for given, name in {
        "_temporary/0/a.jsonl": "_temporary/0/a.jsonl",
        "_temporary": "_temporary/0/a.jsonl",
        "_temp*/*/*.jsonl": "_temporary/0/a.jsonl",
        "**/_temporary/**/*.jsonl": "_temporary/0/a.jsonl",
        "._a.*": "._a.parquet",
        "**/_tmp*": "deep/_tmp.jsonl",
    }.items():
        assert read(resolve([f"{tmp_path}/{given}"]), tmp_path) == [name]


def test_the_log_of_a_table_is_told_with_what_it_means(tmp_path: Path) -> None:
    make(tmp_path, "a.parquet", "_delta_log/0.json", ".hoodie/x.json")
    notices = " ".join(resolve([str(tmp_path)]).notices())
    assert "_delta_log/ (the log of a Delta table; files that the table has removed" in notices
    assert ".hoodie/ (the log of a Hudi table" in notices


def test_work_folders_of_other_tasks_may_go_away_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.jsonl", "p.work/x.bin.tmp", "p.work/journal.jsonl", "q.work/lock")
    sorted_names = sorted

    def vanish(entries: object, **options: object) -> list:
        listed = sorted_names(entries, **options)  # type: ignore[call-overload]
        for name in ("p.work/x.bin.tmp", "q.work/lock"):
            (tmp_path / name).unlink(missing_ok=True)
        if (tmp_path / "q.work").exists():
            (tmp_path / "q.work").rmdir()
        return listed

    monkeypatch.setattr("ml_data.documents.sources.local.sorted", vanish, raising=False)
    assert read(resolve([str(tmp_path)]), tmp_path) == ["a.jsonl"]


def test_files_of_facts(tmp_path: Path) -> None:
    make(tmp_path, "train.json", "dataset_infos.json", "state.json", "tokenizer_config.json")
    listing = resolve([str(tmp_path)])
    assert read(listing, tmp_path) == ["train.json"]
    assert len(passed(listing, tmp_path)) == 3
    assert read(resolve([str(tmp_path / "state.json")]), tmp_path) == ["state.json"]


def relative(folder: Path) -> str:
    return os.path.relpath(folder / "a.jsonl")


@pytest.mark.parametrize(
    "second",
    [
        lambda d: str(d / "a.jsonl"),
        relative,
        lambda d: f"{d}/../{d.name}/a.jsonl",
        lambda d: f"{d}//./a.jsonl",
        lambda d: f"{d}/*.jsonl",
        lambda d: f"{d}/link.jsonl",
        lambda d: f"{d}/hard.jsonl",
        lambda d: f"file://{d}/a.jsonl",
    ],
)
def test_a_file_that_two_inputs_name_is_an_error(
    tmp_path: Path, second: Callable[[Path], str]
) -> None:
    make(tmp_path, "a.jsonl")
    os.link(tmp_path / "a.jsonl", tmp_path / "hard.jsonl")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    with pytest.raises(InputError, match=r"a\.jsonl.* is named twice, by .* would be doubled"):
        resolve([str(tmp_path / "a.jsonl"), second(tmp_path)])


def test_equal_copies_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    (tmp_path / "b.jsonl").write_bytes(LINE)
    os.utime(tmp_path / "a.jsonl", (1, 1))
    os.utime(tmp_path / "b.jsonl", (1, 1))
    assert read(resolve([str(tmp_path)]), tmp_path) == ["a.jsonl", "b.jsonl"]


def test_a_hub_cache(tmp_path: Path) -> None:
    home = tmp_path / "datasets--org--name"
    make(home, "blobs/1", "blobs/2", "blobs/3")
    for revision, files in {"r1": {"a": 1, "b": 2}, "r2": {"a": 1, "b": 3}}.items():
        folder = home / "snapshots" / revision
        folder.mkdir(parents=True)
        for name, blob in files.items():
            (folder / f"{name}.jsonl").symlink_to(f"../../blobs/{blob}")
    with pytest.raises(InputError, match=r"two revisions.*r1/b\.jsonl and .*r2/b\.jsonl"):
        resolve([str(home)])
    (home / "snapshots" / "r2" / "b.jsonl").unlink()
    listing = resolve([str(home)])
    assert read(listing, home) == ["snapshots/r1/a.jsonl", "snapshots/r1/b.jsonl"]
    assert [
        entry.name.removeprefix(f"{home}/") for entry in listing.left_out if entry.same_as is None
    ] == ["blobs/3"]
    assert len(resolve([f"{home}/snapshots/r1", f"{home}/snapshots/r2"]).sources) == 2


def test_files_without_a_byte(tmp_path: Path) -> None:
    make(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").touch()
    (tmp_path / "c.parquet").touch()
    listing = resolve([str(tmp_path)])
    assert read(listing, tmp_path) == ["a.jsonl", "b.jsonl", "c.parquet"]
    (notice,) = listing.notices()
    assert "b.jsonl" in notice
    assert "0 bytes: no documents" in notice
    with pytest.raises(InputError, match="is empty"):
        resolve([str(tmp_path / "b.jsonl"), str(tmp_path / "c.parquet")])


def test_what_ml_data_wrote_is_no_input(tmp_path: Path) -> None:
    make(tmp_path, "a.jsonl", "o.bin", "o.idx", "o.quarantine.jsonl", "x.work/lock", "raw.bin")
    make(tmp_path, "x.work/journal.jsonl", "raw.json", "mine.work/b.jsonl")
    (tmp_path / "o.json").write_text('{\n  "format": "ml-data manifest"}')
    for given in (str(tmp_path), f"{tmp_path}/**/*.json*"):
        listing = resolve([given])
        assert read(listing, tmp_path) == ["a.jsonl", "mine.work/b.jsonl", "raw.json"]
        tokens = passed(InputListing(sources=[], left_out=[
            entry for entry in listing.left_out if entry.reason == "token files"
        ]), tmp_path)  # fmt: skip
        assert tokens == (["o.bin", "o.idx"] if given == str(tmp_path) else [])
        told = {entry.name for entry in listing.left_out if entry.reason.startswith("ml-data")}
        expected = {"o.json", "o.quarantine.jsonl", "x.work/" if given == str(tmp_path) else ""}
        assert expected - {""} <= {os.path.relpath(entry, tmp_path) + "/" * entry.endswith("/")
                                   for entry in told}  # fmt: skip


def test_a_runs_own_files_are_never_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["p_text_document.json", "p_text_document.quarantine.jsonl", "p.work/journal.jsonl"]
    own += ["p.task-00001-of-00002_text_document.quarantine.jsonl"]
    make(tmp_path, "p_raw.jsonl", *own)
    monkeypatch.chdir(tmp_path)
    for prefix in (str(tmp_path / "p"), "p", f"../{tmp_path.name}/p"):
        is_own = files_of_run(prefix, ["text"])
        for given in (".", str(tmp_path), "**/*"):
            assert read(resolve([given], is_own), tmp_path) == ["p_raw.jsonl"]
        for name in own:
            with pytest.raises(InputError, match="output of this very run"):
                resolve([name, "p_raw.jsonl"], is_own)


@pytest.mark.parametrize("given", ["", " ", "missing.jsonl", "missing/*.jsonl", "a.jsonl/*"])
def test_nothing_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    make(tmp_path, "a.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file|a path was expected"):
        resolve([given])


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    make(tmp_path, "a.jsonl")
    os.mkfifo(tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="no regular file"):
        resolve([str(tmp_path / "b.jsonl")])
    assert passed(resolve([str(tmp_path)]), tmp_path) == ["b.jsonl"]


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/a.jsonl", "~/*.jsonl", "~"):
        assert read(resolve([given]), tmp_path) == ["a.jsonl"]


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    make(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert read(resolve([f"{tmp_path}/a[1].jsonl"]), tmp_path) == ["a[1].jsonl"]


def test_a_file_uri_may_be_percent_encoded(tmp_path: Path) -> None:
    make(tmp_path, "a b.jsonl", "a%20b%.jsonl")
    assert read(resolve([(tmp_path / "a b.jsonl").as_uri()]), tmp_path) == ["a b.jsonl"]
    assert read(resolve([f"file://{tmp_path}/a%20b%.jsonl"]), tmp_path) == ["a%20b%.jsonl"]
