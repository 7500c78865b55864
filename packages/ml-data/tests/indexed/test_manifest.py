"""Manifests: those of 1.0 stay readable, bytes and unknown fields survive, damage is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ml_data
from ml_data.errors import FormatError
from ml_data.indexed.manifest import read_manifest
from ml_data.pipeline.combine import merge

PREFIX = Path(__file__).parents[1] / "data" / "format-1" / "small_text_document"


def test_files_of_version_1(tokenizer_path: Path) -> None:
    report = ml_data.verify(PREFIX, tokenizer_path)
    assert report.is_sound, report.faults
    manifest = read_manifest(PREFIX)
    assert manifest is not None
    assert manifest.ledger.documents_dropped == {"undecodable": 1}
    data = ml_data.IndexedDataset(PREFIX)
    assert data.document_indices.tolist() == [0, 1, 1, 2]
    assert [int(ids[-1]) for ids in data] == [2, 2]
    quarantine = Path(f"{PREFIX}.quarantine.jsonl").read_text().splitlines()
    assert json.loads(quarantine[0])["raw"] == "{bad"


def test_the_bytes_of_a_manifest_survive_reading_and_writing() -> None:
    manifest = read_manifest(PREFIX)
    assert manifest is not None
    assert manifest.to_bytes() == Path(f"{PREFIX}.json").read_bytes()


def stated(folder: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """The manifest of 1.0 with `changes`, beside the prefix that is returned."""
    values = {**json.loads(Path(f"{PREFIX}.json").read_bytes()), **changes}
    (folder / "p.json").write_text(json.dumps(values))
    return folder / "p", values


def test_fields_of_a_newer_version_survive(tmp_path: Path) -> None:
    values = json.loads(Path(f"{PREFIX}.json").read_bytes())
    values["tokenizer"]["revision"] = "main"
    values["ledger"]["documents_doubled"] = 3
    values["files"]["small_text_document.bin"]["md5"] = "x"
    prefix, values = stated(tmp_path, **values, licence="CC0")
    manifest = read_manifest(prefix)
    assert manifest is not None
    assert manifest.to_json() == values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer": {"vocab_size": "many"}}, "vocab_size of its tokenizer is 'many'"),
        ({"tokenizer": {"fingerprint": 7}}, "fingerprint of its tokenizer is 7"),
        ({"inputs": [{"path": "a", "bytes": 3}]}, "the field 'rows' is missing"),
        ({"inputs": ["a.jsonl"]}, "Copy it again"),
        ({"files": {}}, "it lists no files"),
        ({"num_documents": 4}, "documents_written of its ledger is 3, but num_documents is 4"),
        ({"num_tokens": 1}, "tokens_written of its ledger is .*, but num_tokens is 1"),
    ],
)
def test_a_damaged_section_is_an_error_with_the_file(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    prefix, _ = stated(tmp_path, **changes)
    with pytest.raises(FormatError, match=rf"p\.json is a damaged manifest: .*{words}"):
        read_manifest(prefix)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"documents_in": 5}, "documents_in of its ledger is 5, but 4 were written or dropped"),
        ({"documents_dropped": {"null": 7}}, "documents_in of its ledger is 4, but 10 were"),
        ({"documents_dropped": {"null": -1}}, "documents_dropped of its ledger is {'null': -1}"),
        ({"documents_dropped": 1}, "documents_dropped of its ledger is 1"),
        ({"documents_empty": 9}, "documents_empty of its ledger is 9, but only 3 were written"),
        ({"documents_written": "3"}, "documents_written of its ledger is '3'"),
        ({"tokens_dropped": 2}, "tokens_in of its ledger is"),
        ({"tokens_in": True}, "tokens_in of its ledger is True"),
    ],
)
def test_counts_of_a_ledger_that_contradict_each_other(
    tmp_path: Path, counts: dict[str, Any], words: str
) -> None:
    ledger = json.loads(Path(f"{PREFIX}.json").read_bytes())["ledger"]
    prefix, _ = stated(tmp_path, ledger={**ledger, **counts})
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{PREFIX}{suffix}", f"{prefix}{suffix}")
    with pytest.raises(FormatError, match=rf"p\.json is a damaged manifest: {words}"):
        read_manifest(prefix)
    faults = ml_data.verify(prefix).faults
    assert len(faults) == 1 and "is a damaged manifest" in faults[0]
    with pytest.raises(FormatError, match="is a damaged manifest"):
        merge([str(prefix), str(PREFIX)], str(tmp_path / "merged"))
    assert not list(tmp_path.glob("merged*"))
