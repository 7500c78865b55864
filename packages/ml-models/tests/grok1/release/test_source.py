"""Folders of xAI's files that do not fit their model."""

import shutil
from pathlib import Path

import pytest
from model_checks.opening import open_reference
from model_checks.references import DATA

from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.errors import WeightError


def test_xai_folders_that_do_not_fit(tmp_path: Path) -> None:
    shutil.copytree(DATA / "xai_tiny_mesh1", tmp_path / "in")
    ckpt = tmp_path / "in" / "ckpt-0"
    with pytest.raises(WeightError, match="tensor files, 12 layers"):
        open_source("xai", ckpt, config=DATA / "xai_tiny" / "xai_config.json")
    with pytest.raises(WeightError, match="not mixtral"):
        open_source("xai", ckpt, name="mixtral-tiny")
    (ckpt / "tensor00003_000").rename(tmp_path / "kept")
    with pytest.raises(WeightError, match="tensor00003_000"):
        open_source("xai", ckpt)
    whole = (tmp_path / "kept").read_bytes()
    (ckpt / "tensor00003_000").write_bytes(whole[:1000])
    with pytest.raises(WeightError, match="truncated"):
        open_source("xai", ckpt)
    shutil.copy(ckpt / "tensor00002_000", ckpt / "tensor00003_000")
    with pytest.raises(WeightError, match="linear_1"):
        open_source("xai", ckpt)
    with pytest.raises(WeightError, match="no format is called 'hugginface'"):
        convert(open_reference("xai_tiny_mesh1"), "hugginface", tmp_path / "out")
