"""verify finds what is wrong with a pair."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import ml_data
from ml_data.cli import main
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize


@pytest.fixture
def prefix(tmp_path: Path, sample: Path, options: Callable[..., TokenizeOptions]) -> str:
    tokenize(options(sample))
    return str(tmp_path / "out" / "p_text_document")


def test_a_sound_pair(prefix: str, tokenizer_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = ml_data.verify(prefix, tokenizer_path)
    assert report.is_sound
    assert (report.num_documents, report.has_manifest) == (953, True)
    assert main(["verify", prefix, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["is_sound"]


def change(path: str, offset: int, value: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(value)


def spoil_ids(prefix: str) -> None:
    change(f"{prefix}.bin", 400, (200_000).to_bytes(4, "little"))


def spoil_offset(prefix: str) -> None:
    change(f"{prefix}.idx", 34 + 4 * 953 + 8 * 5, b"\1")


def spoil_length(prefix: str) -> None:
    change(f"{prefix}.idx", 34, bytes(4))


def spoil_marks(prefix: str) -> None:
    change(f"{prefix}.idx", 34 + 12 * 953 + 8 * 9, bytes(8))


def cut(prefix: str) -> None:
    with open(f"{prefix}.bin", "r+b") as file:
        file.truncate(40_000)


def cut_index(prefix: str) -> None:
    with open(f"{prefix}.idx", "r+b") as file:
        file.truncate(4_000)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_ids, "holds id 200000, the vocabulary ends at 131072"),
        (spoil_offset, "sequence 5 does not follow"),
        (spoil_length, "sequence 0 has no positive length"),
        (spoil_marks, "go backwards"),
        (cut, "has 40000 bytes, its index needs"),
        (cut_index, "damaged"),
    ],
)
def test_faults_are_found(
    prefix: str, spoil: Callable[[str], None], words: str, capsys: pytest.CaptureFixture
) -> None:
    spoil(prefix)
    report = ml_data.verify(prefix)
    assert any(words in fault for fault in report.faults), report.faults
    assert main(["verify", prefix]) == 1
    assert words in capsys.readouterr().out


def test_another_tokenizer(prefix: str) -> None:
    manifest = json.loads(Path(f"{prefix}.json").read_text())
    manifest["tokenizer"]["fingerprint"] = "0" * 64
    Path(f"{prefix}.json").write_text(json.dumps(manifest))
    report = ml_data.verify(prefix, manifest["tokenizer"]["path"])
    assert "another tokenizer" in report.faults[-1]


def test_inspect_shows_counts_histogram_and_tokens(
    prefix: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["inspect", prefix]) == 0
    shown = capsys.readouterr().out
    assert "953 documents" in shown
    assert re.search(r"^ +256 +\d+ +\u2501+", shown, re.M), shown
    assert "Below| is| an| instruction|" in shown
    assert main(["inspect", prefix, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sum(bar["sequences"] for bar in facts["histogram"]) == 953
