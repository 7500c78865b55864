"""A run that cannot go on says why; a file that moves is an error; no manifest mixes two states."""

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_data.documents import state
from ml_data.errors import ChangedInputError, InputError, OutputError, TokenizerError
from ml_data.pipeline import journal as journal_module
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import files_of, write_lines

Make = Callable[..., TokenizeOptions]


def rows(count: int) -> list[Any]:
    return [{"text": f"row {number} " * 5} if number % 9 else b"{bad" for number in range(count)]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_lines(tmp_path / "in" / "a.jsonl", rows(900))


def stop_after(options: TokenizeOptions, shard: int) -> list[str]:
    """Interrupt a run after its `shard`-th shard; its notices."""
    notices: list[str] = []
    append = journal_module.RunJournal.append

    def stopping(self: journal_module.RunJournal, *args: Any) -> None:
        append(self, *args)
        if self.num_shards == shard:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal_module.RunJournal, "append", stopping)
        tokenize(options, on_notice=notices.append)
    return notices


def go_on(options: TokenizeOptions) -> list[str]:
    notices: list[str] = []
    tokenize(options, on_notice=notices.append)
    return notices


def test_it_goes_on_and_says_so(tmp_path: Path, options: Make, lines: Path) -> None:
    assert stop_after(options(lines), 2) == [
        "stopped after shard 2: the same command goes on from there"
    ]
    assert go_on(options(lines)) == ["going on after shard 2 of an earlier run"]
    tokenize(options(lines, name="quiet"))
    expected = files_of(tmp_path / "out" / "quiet_text_document")
    expected[".json"] = expected[".json"].replace(b"quiet_", b"p_")
    assert files_of(tmp_path / "out" / "p_text_document") == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"append_eod": True}, r"other options \(append_eod: False then, True now\)"),
        ({"input": "more"}, r"the inputs are others: .*b\.jsonl is new"),
        ({"input": "reordered"}, "the inputs are reordered"),
    ],
)
def test_another_command_starts_over_and_says_why(
    tmp_path: Path, options: Make, lines: Path, changes: dict[str, Any], words: str
) -> None:
    second = write_lines(tmp_path / "in" / "c.jsonl", rows(30))
    third = write_lines(tmp_path / "in" / "b.jsonl", rows(3))
    lists = {"more": [lines, second, third], "reordered": [second, lines]}
    inputs = lists.get(changes.pop("input", ""), [lines, second])
    stop_after(options(lines, second), 2)
    notices = go_on(options(*inputs, **changes))
    assert len(notices) == 1
    assert notices[0].startswith("starting over, as ")
    assert re.search(words, notices[0])


def test_other_libraries_start_over(
    options: Make, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(options(lines), 2)
    monkeypatch.setattr("ml_data.pipeline.run.versions", lambda _: {"sentencepiece": "9.9"})
    (notice,) = go_on(options(lines))
    assert "the libraries are others since" in notice
    assert "9.9 now" in notice


def test_a_journal_of_another_version_starts_over(
    tmp_path: Path, options: Make, lines: Path
) -> None:
    stop_after(options(lines), 2)
    path = tmp_path / "out" / "p.work" / "journal.jsonl"
    first, _, rest = path.read_text().partition("\n")
    path.write_text(json.dumps({**json.loads(first), "format_version": 1}) + "\n" + rest)
    assert "its journal is of another version of ml-data" in go_on(options(lines))[0]


def test_a_damaged_journal_starts_over(tmp_path: Path, options: Make, lines: Path) -> None:
    path = tmp_path / "out" / "p.work" / "journal.jsonl"
    stop_after(options(lines), 2)
    _, _, rest = path.read_text().partition("\n")
    path.write_text("damaged\n" + rest)
    assert "its journal is damaged" in go_on(options(lines))[0]
    stated = {"shard": 3, "outputs": [], "rows": {}, "sealed": False}
    tails = [{**stated, "position": {"x": 1}}, {**stated, "position": {}, "rows": [7]}]
    for tail in (
        '{"shard": 3}\n', "\x00\x00\n", '{"shard": 3, "posi',
        *(json.dumps(entry) + "\n" for entry in tails),
    ):  # fmt: skip
        stop_after(options(lines, overwrite=True), 2)
        with path.open("a") as file:
            file.write(tail)
        assert go_on(options(lines, overwrite=True)) == ["going on after shard 2 of an earlier run"]


@pytest.mark.parametrize(
    ("before", "after"),
    [('"tokens_in": ', '"tokens_in": 9'), ('"num_sequences"', '"num_sequencez"')],
)
def test_counts_of_a_journal_that_cannot_be_start_over(
    tmp_path: Path, options: Make, lines: Path, before: str, after: str
) -> None:
    path = tmp_path / "out" / "p.work" / "journal.jsonl"
    stop_after(options(lines), 2)
    path.write_text(path.read_text().replace(before, after))
    (notice,) = go_on(options(lines))
    assert re.match(r"starting over, as .* its journal is damaged: ", notice)


def test_lost_temporary_files_start_over(tmp_path: Path, options: Make, lines: Path) -> None:
    for number, damage in enumerate(("bin", "lengths", "documents", "quarantine.jsonl")):
        made = options(lines, name=f"p{number}")
        stop_after(made, 2)
        path = tmp_path / "out" / f"p{number}.work" / f"p{number}_text_document.{damage}.tmp"
        os.truncate(path, path.stat().st_size // 2)
        assert f"{path.name} has" in go_on(made)[0]
        assert not path.parent.exists()


@pytest.mark.parametrize("how", ["grown", "modified", "touched"])
def test_a_file_that_changed_between_kill_and_resume(
    tmp_path: Path, options: Make, lines: Path, how: str
) -> None:
    stop_after(options(lines), 2)
    before = lines.stat().st_mtime_ns
    if how == "grown":
        lines.write_bytes(lines.read_bytes() + b'{"text": "late"}\n')
    elif how == "modified":
        lines.write_bytes(lines.read_bytes().replace(b"row 1 ", b"row 2 "))
    os.utime(lines, ns=(before + 10**9, before + 10**9))
    with pytest.raises(InputError, match=r"a\.jsonl .* after shard 2: .* --overwrite"):
        tokenize(options(lines))
    assert (tmp_path / "out" / "p.work" / "journal.jsonl").exists(), "the progress is kept"
    (notice,) = go_on(options(lines, overwrite=True))
    assert notice.startswith("starting over, as ")
    assert "a.jsonl" in notice
    expected = 901 if how == "grown" else 900
    manifest = json.loads((tmp_path / "out" / "p_text_document.json").read_text())
    assert manifest["ledger"]["documents_in"] == expected


@pytest.mark.parametrize("how", ["grows", "is replaced", "disappears"])
@pytest.mark.parametrize("kind", ["plain", "gz"])
def test_a_file_that_changes_under_the_run(
    tmp_path: Path, options: Make, lines: Path, how: str, kind: str
) -> None:
    if kind == "gz":
        packed = lines.with_suffix(".jsonl.gz")
        packed.write_bytes(gzip.compress(lines.read_bytes()))
        lines = packed
    done = False

    def change(_: object) -> None:
        nonlocal done
        if done:
            return
        done = True
        if how == "grows":
            with lines.open("ab") as file:
                file.write(b'{"text": "late"}\n')
        elif how == "is replaced":
            other = write_lines(tmp_path / "other", rows(5))
            other.replace(lines)
        else:
            lines.unlink()

    with pytest.raises(ChangedInputError, match=rf"{lines.name} "):
        tokenize(options(lines, log_interval=10), on_progress=change)
    assert not list((tmp_path / "out").iterdir()), "no output, no progress of a mixture"


def test_the_checksum_is_of_the_state_that_was_read(
    options: Make, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change after the last row was read, before the checksum was taken."""
    from ml_data.pipeline import run

    def late(*_: object) -> str:
        with lines.open("ab") as file:
            file.write(b"x\n")
        return "0" * 64

    monkeypatch.setattr(run, "source_checksum", late)
    with pytest.raises(ChangedInputError, match=r"a\.jsonl changed while it was read"):
        tokenize(options(lines))


def test_a_tokenizer_that_changes_under_the_run(
    tmp_path: Path, options: Make, lines: Path, tokenizer_path: Path
) -> None:
    """Workers load it when the run is under way; the manifest states what the run began with."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    shutil.copy(tokenizer_path / "tokenizer.model", folder)
    from ml_data.pipeline.plan import make_plan

    made = options(lines, tokenizer_name_or_path=str(folder))
    job = make_plan(made, lambda _: None).job
    assert job.load().fingerprint == job.fingerprint
    with (folder / "tokenizer.model").open("ab") as file:
        file.write(b"\x22\x00")  # an empty field: the same pieces, other bytes
    with pytest.raises(TokenizerError, match="is another tokenizer than the one that the run"):
        job.load()


def test_a_finished_output_names_what_differs(tmp_path: Path, options: Make, lines: Path) -> None:
    other = write_lines(tmp_path / "in" / "b.jsonl", rows(5))
    tokenize(options(lines, other))
    for changes, words in (
        ({"append_eod": True}, r"by another command \(append_eod: False then, True now\)"),
        ({"input": (str(lines),)}, r"the inputs are others: .*b\.jsonl is gone"),
        ({"max_document_tokens": 9}, "max_document_tokens: None then, 9 now"),
        ({"eod_id": 2, "append_eod": True}, "eod_id: None then, 2 now"),
    ):
        with pytest.raises(OutputError, match=words):
            tokenize(options(lines, other, **changes))
    with other.open("ab") as file:
        file.write(b'{"text": "late"}\n')
    with pytest.raises(OutputError, match=r"input .*b\.jsonl changed since it was made"):
        tokenize(options(lines, other))
    (tmp_path / "out" / "p_text_document.json").unlink()
    with pytest.raises(OutputError, match="no manifest is beside it"):
        tokenize(options(lines, other))


def test_a_finished_output_with_a_file_missing_is_not_complete(
    tmp_path: Path, options: Make
) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "a", "title": "b"}] * 3)
    made = options(lines, json_keys=("text", "title"))
    tokenize(made)
    (tmp_path / "out" / "p_title_document.bin").unlink()
    with pytest.raises(OutputError, match=r"p_title_document\.bin is missing, though"):
        tokenize(made)
    for suffix in (".idx", ".json"):
        (tmp_path / "out" / f"p_title_document{suffix}").unlink()
    with pytest.raises(OutputError, match=r"p_title_document\.idx is missing, though other"):
        tokenize(made)
    tokenize(options(lines, json_keys=("text", "title"), overwrite=True))
    os.truncate(tmp_path / "out" / "p_text_document.bin", 4)
    with pytest.raises(OutputError, match=r"p_text_document\.bin .*it was changed since"):
        tokenize(made)


def test_progress_of_another_command_survives_a_run_that_has_nothing_to_do(
    options: Make, lines: Path
) -> None:
    tokenize(options(lines))
    stop_after(options(lines, append_eod=True, overwrite=True), 2)
    notices = go_on(options(lines))
    assert "complete already" in notices[0]
    assert "is left as it is: it belongs to a command with other options" in notices[1]
    notices = go_on(options(lines, append_eod=True, overwrite=True))
    assert notices == ["going on after shard 2 of an earlier run"]


def test_a_remote_file_without_a_time_is_compared_by_size() -> None:
    import pyarrow.fs as arrow_fs

    from ml_data.documents.sources import SourceFile

    filesystem = arrow_fs._MockFileSystem()
    with filesystem.open_output_stream("a.jsonl") as stream:
        stream.write(b"12345")
    info = filesystem.get_file_info("a.jsonl")
    source = SourceFile(
        name="mock://a.jsonl", path="a.jsonl", filesystem=filesystem, num_bytes=5,
        modified_ns=info.mtime_ns or 0, is_local=False,
    )  # fmt: skip
    state.require_unchanged(source)
    with filesystem.open_output_stream("a.jsonl") as stream:
        stream.write(b"123456")
    with pytest.raises(ChangedInputError, match=r"mock://a\.jsonl changed .*5 bytes .* 6 now"):
        state.require_unchanged(source)
    filesystem.delete_file("a.jsonl")
    with pytest.raises(ChangedInputError, match="is gone"):
        state.require_unchanged(source)
