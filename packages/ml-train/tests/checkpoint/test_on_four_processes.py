"""Saving and loading on four gloo processes; the scenarios are in worker.py."""

import json
from pathlib import Path
from typing import Any

import pytest
from jobs import run_job

from ml_models.megatron_core.lines import CORE_LINE

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CORE_LINE == "0.12", reason="distributed optimizer on the CPU"),
]


def result(folder: Path, name: str) -> Any:
    run_job(HERE / "worker.py", folder, name, processes=4, timeout=200)
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["ranks"]


def test_resume_is_exact(tmp_path: Path) -> None:
    for rank in result(tmp_path, "four_resume_tp2_pp2"):
        assert rank["resumed"] == rank["losses"]
        assert rank["digests"][0] == rank["digests"][1]


@pytest.mark.parametrize("name", ["four_tp2_ep2_to_pp2_ep2", "four_pp2_tp2_to_etp2_ep2"])
def test_another_layout_takes_every_bit(tmp_path: Path, name: str) -> None:
    for rank in result(tmp_path, name):
        assert rank["differing"] == []
        assert rank["resumed"] == pytest.approx(rank["losses"], rel=1e-5)
