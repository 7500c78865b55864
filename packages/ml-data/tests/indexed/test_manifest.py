"""Manifests: those of 1.0 stay readable, bytes and unknown fields survive, damage is named."""

import json
from pathlib import Path
from typing import Any

import pytest

import ml_data
from ml_data.errors import FormatError
from ml_data.indexed.manifest import read_manifest

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
    ],
)
def test_a_damaged_section_is_an_error_with_the_file(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    prefix, _ = stated(tmp_path, **changes)
    with pytest.raises(FormatError, match=rf"p\.json is a damaged manifest: .*{words}"):
        read_manifest(prefix)
