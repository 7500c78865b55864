"""The constraints files for npu and the tables of two pages are those of the package data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import version_tables  # noqa: E402

from ml_models.megatron_core.lines import SUPPORTED  # noqa: E402
from ml_models.platforms.versions import combinations  # noqa: E402


@pytest.mark.parametrize("page", version_tables.PAGES)
def test_a_page_is_in_step(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert text == version_tables.rendered(page), "run python tools/version_tables.py"


def test_constraints_files_are_in_step_and_none_is_left_over() -> None:
    made = version_tables.constraints_files()
    assert {path.name for path in made} == {
        path.name for path in (ROOT / "constraints").glob("npu-*.txt")
    }
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run python tools/version_tables.py"


def test_pip_can_read_every_constraints_file() -> None:
    for path in version_tables.constraints_files():
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [Requirement(line).name for line in lines if not line.startswith("#")]
        assert names[:2] == ["torch", "torch-npu"] and len(names) == len(set(names))


def test_the_rows_of_cpu_and_cuda_are_what_the_tests_run_on() -> None:
    pins = (ROOT / "constraints" / "base.txt").read_text(encoding="utf-8")
    tested = {line.version for line in SUPPORTED}
    default = (ROOT / "constraints" / "default.txt").read_text(encoding="utf-8")
    for row in combinations("cpu"):
        assert f"torch=={row.torch}\n" in pins
        assert row.megatron_core in tested and f"megatron-core=={row.megatron_core}" in default
