"""Tasks, merge and split give the bytes of a single run."""

import gzip
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ml_data
from ml_data.cli import main
from ml_data.errors import FormatError, OutputError, UsageError
from ml_data.flags import FlagParser
from ml_data.indexed.reader import IndexedDataset
from ml_data.pipeline.combine import merge, merge_tasks, split
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import files_of, write_lines, write_parquet

Make = Callable[..., TokenizeOptions]


def inputs(folder: Path) -> list[Path]:
    rows = [{"text": f"row {index} " + "again " * (index % 11)} for index in range(600)]
    lines = [b"{bad" if index % 50 == 7 else row for index, row in enumerate(rows)]
    plain = write_lines(folder / "b.jsonl", lines)
    packed = folder / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    texts = [None if index % 40 == 3 else row["text"] for index, row in enumerate(rows)]
    return [write_parquet(folder / "a.parquet", {"text": texts}, row_group_size=170), plain, packed]


@pytest.mark.parametrize("num_tasks", [2, 3, 7])
def test_tasks_give_the_bytes_of_one_run(tmp_path: Path, options: Make, num_tasks: int) -> None:
    files = inputs(tmp_path)
    tokenize(options(*files, name="p", append_eod=True))
    expected = files_of(tmp_path / "out" / "p_text_document")
    for index in range(num_tasks):
        if index == num_tasks - 1:
            with pytest.raises(FormatError, match=f"1 of {num_tasks} tasks have not finished"):
                merge_tasks(str(tmp_path / "tasks" / "p"))
        tokenize(
            options(
                *files,
                output_prefix=str(tmp_path / "tasks" / "p"),
                append_eod=True,
                num_tasks=num_tasks,
                task_index=index,
            )
        )
    merge_tasks(str(tmp_path / "tasks" / "p"))
    assert files_of(tmp_path / "tasks" / "p_text_document") == expected
    assert ".quarantine.jsonl" in expected


def test_split_and_merge_are_inverse(tmp_path: Path, options: Make, sample: Path) -> None:
    tokenize(options(sample))
    prefix = str(tmp_path / "out" / "p_text_document")
    made = split(prefix, str(tmp_path / "q"), [98, 1, 1])
    assert sum(part.num_documents for part in made) == 953
    assert 0.97 < made[0].num_tokens / sum(part.num_tokens for part in made) < 0.99
    parts = [str(tmp_path / f"q.part-0000{index}-of-00003") for index in range(3)]
    merge(parts, str(tmp_path / "back"))
    whole, back = files_of(prefix), files_of(tmp_path / "back")
    assert {s: whole[s] for s in (".bin", ".idx")} == {s: back[s] for s in (".bin", ".idx")}
    with pytest.raises(OutputError, match="--overwrite"):
        merge(parts, str(tmp_path / "back"))


def test_merge_keeps_empty_documents(tmp_path: Path, options: Make) -> None:
    for name, texts in (("a", ["", "one", ""]), ("b", ["", "", "two"])):
        tokenize(options(write_parquet(tmp_path / f"{name}.parquet", {"text": texts}), name=name))
    prefixes = [str(tmp_path / "out" / f"{name}_text_document") for name in "ab"]
    manifest = merge(prefixes, str(tmp_path / "c"))
    assert IndexedDataset(tmp_path / "c").document_indices.tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert manifest.ledger.documents_empty == 4


def test_merge_refuses_what_does_not_fit(tmp_path: Path, options: Make, sample: Path) -> None:
    tokenize(options(sample, name="with", append_eod=True))
    tokenize(options(sample, name="without"))
    pair = [str(tmp_path / "out" / f"{name}_text_document") for name in ("with", "without")]
    with pytest.raises(FormatError, match="one with --append-eod, one without"):
        merge(pair, str(tmp_path / "y"))
    with pytest.raises(UsageError, match="no finished task"):
        merge_tasks(str(tmp_path / "p"))
    with pytest.raises(UsageError, match="at least two"):
        merge(["x"], str(tmp_path / "y"))
    with pytest.raises(FormatError, match="does not exist"):
        merge(["x", "z"], str(tmp_path / "y"))


def bare(prefix: Path, *ids: int) -> str:
    """A pair as Megatron writes it, without a manifest."""
    with ml_data.IndexedDatasetWriter(prefix, np.int32) as writer:
        writer.add_batch(list(ids), [1] * len(ids))
    return str(prefix)


def test_pairs_without_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = bare(tmp_path / "a", 1, 2), bare(tmp_path / "b", 3)
    Path(f"{second}.json").write_text('{"text": "a raw corpus beside the pair"}\n')
    notices: list[str] = []
    manifest = merge([first, second], str(tmp_path / "m"), notice=notices.append)
    assert manifest.tokenizer is None
    assert "so the merge names none" in notices[0]
    assert ml_data.verify(tmp_path / "m").is_sound
    split(str(tmp_path / "m"), str(tmp_path / "s"), [1, 2])
    for name in ("a", "b", "m", "s.part-00001-of-00002"):
        assert main(["inspect", str(tmp_path / name)]) == 0
        assert "no manifest names the tokenizer" in capsys.readouterr().out
        assert main(["inspect", str(tmp_path / name), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["tokenizer"] is None
    assert [ids.tolist() for ids in IndexedDataset(tmp_path / "m")] == [[1], [2], [3]]


def test_a_merge_claims_what_all_parts_share(tmp_path: Path, options: Make) -> None:
    def made(name: str, **changes: Any) -> str:
        lines = write_lines(tmp_path / f"{name}.jsonl", [{"text": name, "title": name}])
        tokenize(options(lines, name=name, **changes))
        return str(tmp_path / "out" / f"{name}_{changes.get('json_keys', ('text',))[0]}_document")

    first, second = made("a"), made("b", on_error="skip")
    title, unknown = made("c", json_keys=("title",)), bare(tmp_path / "bare", 7)
    whole = merge([first, second], str(tmp_path / "ab"))
    assert whole.tokenizer.fingerprint
    assert whole.key == "text"
    assert "on_error" not in whole.options
    assert whole.options["append_eod"] is False
    assert merge([first, title], str(tmp_path / "ac")).key is None
    for parts in ([first, unknown], [unknown, first], [str(tmp_path / "mixed0"), first]):
        mixed = merge(parts, str(tmp_path / f"mixed{len(list(tmp_path.glob('mixed*.idx')))}"))
        assert {"tokenizer", "options", "ledger"} & set(mixed.to_json()) == set()
        assert mixed.key is None


def test_a_pair_that_would_be_doubled_or_eaten(tmp_path: Path) -> None:
    first, second = bare(tmp_path / "a", 1), bare(tmp_path / "b", 2)
    (tmp_path / "link.idx").symlink_to(tmp_path / "a.idx")
    (tmp_path / "link.bin").symlink_to(tmp_path / "a.bin")
    (tmp_path / "hard.idx").hardlink_to(tmp_path / "a.idx")
    (tmp_path / "hard.bin").hardlink_to(tmp_path / "a.bin")
    for other in (first, str(tmp_path / "." / "a"), str(tmp_path / "link"), str(tmp_path / "hard")):
        with pytest.raises(UsageError, match="is named twice: its documents would be doubled"):
            merge([first, other], str(tmp_path / "m"))
    with pytest.raises(UsageError, match="is both input and output"):
        merge([first, second], first, overwrite=True)
    for shares in ([], [1, 0], [float("nan")], [1, float("inf")]):
        with pytest.raises(UsageError, match="a share above 0"):
            split(first, str(tmp_path / "s"), shares)
    with Path(f"{second}.bin").open("ab") as file:
        file.write(bytes(4))
    for write in (
        lambda: merge([first, second], str(tmp_path / "m")),
        lambda: split(second, str(tmp_path / "s"), [1, 1]),
    ):
        with pytest.raises(FormatError, match=r"b\.bin has 8 bytes, its index needs 4"):
            write()
    assert not list(tmp_path.glob("m.*"))
    assert not list(tmp_path.glob("s.*"))


@pytest.mark.parametrize("value", [-4, 1 << 40])
@pytest.mark.parametrize("offset", [34, 34 + 4, 34 + 12, 34 + 12 + 8])
def test_a_damaged_index_is_one_sentence(tmp_path: Path, offset: int, value: int) -> None:
    """Its length, its byte offset and both marks of the only document, one after the other."""
    pair = bare(tmp_path / "a", 1)
    raw = bytearray(Path(f"{pair}.idx").read_bytes())
    size = 4 if offset == 34 else 8
    raw[offset : offset + size] = value.to_bytes(8, "little", signed=True)[:size]
    Path(f"{pair}.idx").write_bytes(raw)
    for words in (["merge", pair, bare(tmp_path / "b", 2)], ["split", pair, "--parts", "2"]):
        with pytest.raises(FormatError):
            _raising([*words, "--output-prefix", str(tmp_path / "m")])
    assert not list(tmp_path.glob("m.*"))


def _raising(words: list[str]) -> None:
    parser = FlagParser()
    module = importlib.import_module(f"ml_data.commands.{words[0]}")
    module.add_arguments(parser)
    module.run(parser.parse_args(words[1:]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": "ml-data manifest", "format_version": 1', "is a damaged manifest"),
        ('{"format": "ml-data manifest", "format_version": 1}', "its field 'files' is None"),
        ('{"format": "ml-data manifest", "files": {}}', "'format_version' is None"),
        ('{"format": "ml-data manifest", "format_version": "1", "files": {}}', "is '1'"),
        (
            '{"format": "ml-data manifest", "format_version": 1, "files": {"a.bin": 3}}',
            "the size of 'a.bin' is missing",
        ),
        (
            '{"format": "ml-data manifest", "format_version": 1, "files": {}, "tokenizer": "x"}',
            "its field 'tokenizer' is 'x'",
        ),
        ('{"format": "ml-data manifest", "format_version": 9, "files": {}}', "install a newer"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    first, second = bare(tmp_path / "a", 1), bare(tmp_path / "b", 2)
    Path(f"{first}.json").write_text(text)
    for command in (
        ["inspect", first],
        ["merge", first, second, "--output-prefix", str(tmp_path / "m")],
        ["split", first, "--output-prefix", str(tmp_path / "s"), "--parts", "1"],
        ["verify", first],
    ):
        assert main(command) == 1
        shown = capsys.readouterr()
        assert words in shown.err + shown.out
