"""The pages for people who move over say what the tables of the code do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ml_train.config.fields import settings

ROOT = Path(__file__).parents[4]
sys.path.insert(0, str(ROOT / "tools"))

import migration_tables  # noqa: E402


@pytest.mark.parametrize("name", migration_tables.TABLES)
def test_the_page_is_in_step_with_the_code(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page == migration_tables.rendered(name), (
        f"docs/{name} is out of step; run python tools/migration_tables.py"
    )


def test_our_own_names_are_settings() -> None:
    assert set(settings()) >= migration_tables.OUR_OWN
