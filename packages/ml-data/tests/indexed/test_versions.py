"""Files of 1.0 stay readable."""

import json
from pathlib import Path

import ml_data
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
