"""Files of two ranks that were exchanged: what is seen, and what cannot be seen."""

import json
from pathlib import Path

import pytest
import torch
from model_checks.presharded import PLAIN, PRESHARDED, copy_to, exchange, file
from safetensors.torch import load_file, save_file

from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.errors import WeightError
from ml_models.grok2.release.swaps import UNSEEN
from ml_models.weights.sink import SinkOptions

KINDS = (6, 7, 8)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The reference for two ranks as the converter writes it, with its checksums."""
    options = SinkOptions(presharded_ranks=2)
    convert(open_source("huggingface", PLAIN), "presharded", tmp_path / "out", options)
    return tmp_path / "out"


@pytest.mark.parametrize("kinds", [(6,), (7,), (6, 8), KINDS])
def test_an_exchange_is_seen_by_the_converters_checksums(
    kinds: tuple[int, ...], written: Path
) -> None:
    for kind in kinds:
        exchange(written, file(kind, "000"), file(kind, "001"))
    with pytest.raises(WeightError, match="slice of rank 001, .*exchanged"):
        open_source("presharded", written)


def test_a_changed_file_is_seen_by_the_converters_checksums(written: Path) -> None:
    path = written / file(7, "001")
    save_file({name: values * 2 for name, values in load_file(path).items()}, path)
    with pytest.raises(WeightError, match="00007-TP-001.*another checksum.*changed"):
        open_source("presharded", written)


def test_a_damaged_report_is_no_hindrance(written: Path) -> None:
    report = written / "conversion_report.json"
    values = json.loads(report.read_text())
    for broken in ("{", "[]", json.dumps(values | {"to": "huggingface"})):
        report.write_text(broken)
        assert UNSEEN in open_source("presharded", written).notes


def test_an_exchange_in_xais_own_files_is_not_seen_and_said(tmp_path: Path) -> None:
    """Nothing inside the files differs; the report says so, and the numbers are others."""
    folder = copy_to(tmp_path / "release")
    exchange(folder, file(6, "000"), file(6, "001"))
    source = open_source("presharded", folder)
    report = convert(source, "huggingface", tmp_path / "out", SinkOptions())
    assert UNSEEN in report["notes"]
    got = load_file(tmp_path / "out" / "model.safetensors")
    expected = load_file(PLAIN / "model.safetensors")
    changed = {name for name, values in got.items() if not torch.equal(values, expected[name])}
    assert changed == {name for name in expected if name.endswith(".w1.weight")}
    assert UNSEEN in open_source("presharded", PRESHARDED).notes


def test_constant_slices_are_no_copies(tmp_path: Path) -> None:
    folder = copy_to(tmp_path / "release")
    for kind in KINDS:
        for rank in ("000", "001"):
            path = folder / file(kind, rank)
            save_file({name: values * 0 for name, values in load_file(path).items()}, path)
    assert open_source("presharded", folder).notes == [UNSEEN]
