"""Prefixes as people give them: with ~, or a folder where a name was wanted."""

from pathlib import Path

import numpy as np
import pytest

import ml_data
from ml_data.cli import main
from ml_data.errors import FormatError, UsageError

from ..conftest import write_lines


def write_pair(prefix: str | Path) -> None:
    with ml_data.IndexedDatasetWriter(prefix, np.int32) as writer:
        writer.add_document([1, 2, 3], [3])


def test_the_home_folder_everywhere(
    tmp_path: Path, tokenizer_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_lines(tmp_path / "a.jsonl", [{"text": "some text"}])
    (tmp_path / "tokenizer").symlink_to(tokenizer_path)
    ml_data.tokenize("~/a.jsonl", "~/tokenizer", "~/p")
    assert ml_data.verify("~/p_text_document", "~/tokenizer").is_sound
    assert ml_data.IndexedDataset("~/p_text_document").num_documents == 1
    write_pair("~/q")
    pairs = ["~/p_text_document", "~/q"]
    assert main(["merge", *pairs, "--output-prefix=~/r"]) == 0
    assert main(["split", "~/r", "--output-prefix=~/s", "--parts", "2"]) == 0
    assert main(["verify", "~/s.part-00000-of-00002"]) == 0
    assert main(["inspect", "~/s.part-00001-of-00002", "--json"]) == 0
    assert not list(Path.cwd().glob("~*"))


@pytest.mark.parametrize("prefix", ["", "/", ".", "..", "out/", "out/.."])
def test_an_output_prefix_needs_a_name(tmp_path: Path, tokenizer_path: Path, prefix: str) -> None:
    (tmp_path / "out").mkdir()
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "some text"}])
    given = prefix if prefix in ("", "/", ".", "..") else f"{tmp_path}/{prefix}"
    with pytest.raises(UsageError, match="add a name, as in --output-prefix .*data"):
        ml_data.tokenize(lines, tokenizer_path, given)
    with pytest.raises(UsageError, match="add a name"):
        ml_data.IndexedDatasetWriter(given, np.int32)
    words = ["tokenize", "--input", str(lines), "--tokenizer-model", str(tokenizer_path)]
    assert main([*words, "--output-prefix", given]) == 2
    assert not list((tmp_path / "out").iterdir())


def test_a_prefix_beside_a_folder_of_its_name(tmp_path: Path, tokenizer_path: Path) -> None:
    (tmp_path / "out").mkdir()
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "some text"}])
    with pytest.warns(UserWarning, match="out is a folder, too: the output lies beside it"):
        ml_data.tokenize(lines, tokenizer_path, tmp_path / "out")
    assert (tmp_path / "out_text_document.idx").exists()


def test_a_folder_that_is_read_as_a_prefix_names_its_pairs(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_pair(tmp_path / "run" / name)
    with pytest.raises(FormatError, match=r"is a folder; the prefixes in it: .*run/a, .*run/b$"):
        ml_data.IndexedDataset(tmp_path / "run")
    (fault,) = ml_data.verify(f"{tmp_path}/run/").faults
    assert "run/a" in fault
