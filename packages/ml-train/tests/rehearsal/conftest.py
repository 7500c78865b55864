"""A checkpoint of a small run, trained once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from rehearsed import MODEL, STEPS, sound_data

from ml_train.cli import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tokens` and `save`, of a run of 4 steps in this process."""
    folder = tmp_path_factory.mktemp("trained")
    words = [*MODEL, *STEPS, "--save", str(folder / "save"), "--exit-interval", "4"]
    words += ["--data-path", sound_data(folder), "--split", "8,2,0"]
    assert main(["pretrain", *words]) == 0
    return folder
