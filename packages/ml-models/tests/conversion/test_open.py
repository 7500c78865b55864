"""Which format a folder has."""

from pathlib import Path

import pytest
from model_checks.references import DATA

from ml_models.conversion.open import guess_format, open_source
from ml_models.errors import ConfigError, WeightError


def test_formats_are_recognised(tmp_path: Path) -> None:
    assert guess_format(DATA / "hf_a") == "huggingface"
    assert guess_format(DATA / "xai_tiny" / "ckpt-0") == "xai"
    with pytest.raises(WeightError, match="neither"):
        guess_format(tmp_path)
    with pytest.raises(ConfigError, match="no model is called"):
        open_source("huggingface", DATA / "hf_a", name="grok1-314")
