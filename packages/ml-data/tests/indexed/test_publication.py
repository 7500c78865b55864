"""No writer replaces a file that is not of ml-data, with or without --overwrite."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ml_data
from ml_data.errors import OutputError
from ml_data.indexed.ownership import SUFFIXES, stranger
from ml_data.indexed.publication import Publication, temporary_path
from ml_data.pipeline.combine import merge, split
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import write_lines

Make = Callable[..., TokenizeOptions]


def write_pair(prefix: Path, *ids: int, **options: bool) -> None:
    with ml_data.IndexedDatasetWriter(prefix, np.int32, **options) as writer:
        writer.add_document(list(ids), [len(ids)])


def by_writer(folder: Path, _options: Make, overwrite: bool) -> Path:
    write_pair(folder / "q", 1, 2, overwrite=overwrite)
    return folder / "q"


def by_merge(folder: Path, _options: Make, overwrite: bool) -> Path:
    for name in ("a", "b"):
        write_pair(folder / "parts" / name, 1, 2, 3, overwrite=True)
    merge(
        [str(folder / "parts" / name) for name in ("a", "b")],
        str(folder / "q"), overwrite=overwrite,
    )  # fmt: skip
    return folder / "q"


def by_split(folder: Path, _options: Make, overwrite: bool) -> Path:
    write_pair(folder / "parts" / "whole", 1, 2, 3, overwrite=True)
    split(str(folder / "parts" / "whole"), str(folder / "q"), [1, 1], overwrite=overwrite)
    return folder / "q.part-00001-of-00002"


def by_tokenize(folder: Path, options: Make, overwrite: bool) -> Path:
    folder.mkdir(exist_ok=True)
    lines = write_lines(folder / "in.jsonl", [{"text": "a b"}, b"{bad"])
    tokenize(options(lines, output_prefix=str(folder / "q"), overwrite=overwrite))
    return folder / "q_text_document"


WRITERS = [by_writer, by_merge, by_split, by_tokenize]
Writer = Callable[[Path, Make, bool], Path]


def make_foreign(path: Path, kind: str) -> None:
    target = path.parent / "elsewhere"
    match kind:
        case "data":
            path.write_bytes(b'{"mine": 1}\n')
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.mkdir()
            (path / "mine").write_bytes(b"x")
        case "link":
            target.write_bytes(b"far")
            path.symlink_to(target)
        case "dangling link":
            path.symlink_to(target)


def state_of(folder: Path) -> dict[str, bytes | str]:
    return {
        path.relative_to(folder).as_posix(): (
            os.readlink(path) if path.is_symlink()
            else path.read_bytes() if path.is_file() else "folder"
        )
        for path in folder.rglob("*")
        if "parts" not in path.parts
    }  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("write", WRITERS)
def test_a_foreign_file_is_kept(tmp_path: Path, options: Make, write: Writer, suffix: str) -> None:
    final = write(tmp_path / "example", options, False)
    for kind in ("data", "empty", "folder", "link", "dangling link"):
        folder = tmp_path / kind.replace(" ", "-")
        folder.mkdir()
        make_foreign(folder / f"{final.name}{suffix}", kind)
        before = state_of(folder)
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="is not an output of ml-data") as raised:
                write(folder, options, overwrite)
            assert f"{final.name}{suffix}" in str(raised.value)
            after = state_of(folder)
            after.pop("in.jsonl", None)
            assert after == before, (kind, overwrite)


@pytest.mark.parametrize("write", WRITERS)
def test_a_foreign_work_folder_is_kept(tmp_path: Path, options: Make, write: Writer) -> None:
    for number, content in enumerate((b"{}", b"")):
        work = tmp_path / str(number) / "q.work"
        work.mkdir(parents=True)
        (work / "notes.txt").write_bytes(content)
        with pytest.raises(OutputError, match=r"q\.work exists and was not made by ml-data"):
            write(work.parent, options, True)
        assert os.listdir(work) == ["notes.txt"]
    (tmp_path / "q.work").write_bytes(b"a file")
    with pytest.raises(OutputError, match="is not a folder"):
        write(tmp_path, options, True)
    assert (tmp_path / "q.work").read_bytes() == b"a file"


@pytest.mark.parametrize("write", WRITERS)
def test_an_own_output_needs_overwrite(tmp_path: Path, options: Make, write: Writer) -> None:
    final = write(tmp_path, options, False)
    first = state_of(tmp_path)
    if write is not by_tokenize:  # there, the same command has nothing to do
        with pytest.raises(OutputError, match=r"exists: .*--overwrite \(overwrite=True"):
            write(tmp_path, options, False)
    assert state_of(tmp_path) == first
    Path(f"{final}.json").unlink(missing_ok=True)  # a pair as Megatron writes it
    write(tmp_path, options, True)
    second = state_of(tmp_path)
    assert {name for name in first if not name.endswith(".json")} <= set(second)
    assert not [name for name in second if "work" in name]


def test_an_output_that_was_changed_is_no_longer_own(tmp_path: Path, options: Make) -> None:
    prefix = by_tokenize(tmp_path, options, False)
    assert [stranger(prefix, suffix) for suffix in SUFFIXES] == [None] * 4
    with Path(f"{prefix}.quarantine.jsonl").open("a") as file:
        file.write('{"text": "mended by hand"}\n')
    with pytest.raises(OutputError, match=r"quarantine\.jsonl .*it was changed since it was made"):
        by_tokenize(tmp_path, options, True)
    Path(f"{prefix}.quarantine.jsonl").unlink()
    Path(f"{prefix}.bin").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"\.bin .*4 bytes, its manifest or index says"):
        by_tokenize(tmp_path, options, True)
    Path(f"{prefix}.bin").unlink()
    by_tokenize(tmp_path, options, True)
    assert ml_data.verify(prefix).is_sound


def test_a_renamed_output_is_own(tmp_path: Path, options: Make) -> None:
    prefix = by_tokenize(tmp_path / "one", options, False)
    (tmp_path / "two").mkdir()
    for suffix in SUFFIXES:
        shutil.copy(f"{prefix}{suffix}", tmp_path / "two" / f"q{suffix}")
    write_pair(tmp_path / "two" / "q", 7, overwrite=True)
    assert sorted(os.listdir(tmp_path / "two")) == ["q.bin", "q.idx"]


def test_a_file_that_appears_while_the_output_is_written(tmp_path: Path) -> None:
    writer = ml_data.IndexedDatasetWriter(tmp_path / "q", np.int32, overwrite=True)
    writer.add_document([1, 2], [2])
    (tmp_path / "q.json").write_text('{"mine": 1}')
    with pytest.raises(OutputError, match=r"q\.json exists and is not an output"):
        writer.finalize()
    assert (tmp_path / "q.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "q.bin").exists()
    assert (tmp_path / "q.work" / "q.bin.tmp").stat().st_size == 8, "what was written is kept"
    (tmp_path / "q.json").unlink()
    write_pair(tmp_path / "q", 3)
    assert sorted(os.listdir(tmp_path)) == ["q.bin", "q.idx"]


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.mark.parametrize("had_manifest", [True, False])
def test_a_crash_at_each_step_of_replacing(
    tmp_path: Path, options: Make, monkeypatch: pytest.MonkeyPatch, had_manifest: bool
) -> None:
    """Whichever unlink or rename is the last, publishing again gives the new output alone."""
    old = by_tokenize(tmp_path / "old", options, False)
    write_lines(tmp_path / "new.jsonl", [{"text": "another text"}])
    tokenize(options(tmp_path / "new.jsonl", output_prefix=str(tmp_path / "new" / "q")))
    new = tmp_path / "new" / "q_text_document"
    step = steps = 0
    while step == steps:
        step += 1
        folder, work = tmp_path / str(step), tmp_path / str(step) / "q.work"
        work.mkdir(parents=True)
        prefix = folder / "q_text_document"
        for suffix in SUFFIXES:
            if suffix != ".json" or had_manifest:
                shutil.copy(f"{old}{suffix}", f"{prefix}{suffix}")
            if Path(f"{new}{suffix}").exists():
                shutil.copy(f"{new}{suffix}", temporary_path(work, prefix, suffix))
        publication = Publication([prefix], work, overwrite=True)
        steps = 0

        def counted(call: Callable[..., None], last: int = step) -> Callable[..., None]:
            def wrapped(*args: object) -> None:
                nonlocal steps
                steps += 1
                if steps == last:
                    raise Killed
                call(*args)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", counted(Path.unlink))
            patch.setattr(Path, "replace", counted(Path.replace))
            try:
                publication.publish()
            except Killed:
                valid = Path(f"{prefix}.idx").exists() and Path(f"{prefix}.bin").exists()
                assert not valid or ml_data.IndexedDataset(prefix)
        publication.publish()
        pair = [f"q_text_document{suffix}" for suffix in (".bin", ".idx")]
        made = {name: (new.parent / name).read_bytes() for name in pair}
        assert {name: (folder / name).read_bytes() for name in made} == made
        assert sorted(os.listdir(folder)) == ["q.work", *sorted((*made, "q_text_document.json"))]
        assert json.loads(Path(f"{prefix}.json").read_text())["num_documents"] == 1
    assert step > 6
