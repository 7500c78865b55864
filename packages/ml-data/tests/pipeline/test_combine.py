"""Tasks, merge and split give the bytes of a single run."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_data.errors import FormatError, OutputError, UsageError
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
    assert sum(one["num_documents"] for one in made) == 953
    assert 0.97 < made[0]["num_tokens"] / sum(one["num_tokens"] for one in made) < 0.99
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
    assert manifest["ledger"]["documents_empty"] == 4


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
