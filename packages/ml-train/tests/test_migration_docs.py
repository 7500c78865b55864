"""The pages for people who move over say what the tables of the code do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml_train.config import migration
from ml_train.config.fields import settings
from ml_train.config.megatron_flags import REFUSED, STATEMENTS

ROOT = Path(__file__).parents[3]
DATA = Path(__file__).parent / "data"


def flags_of(name: str) -> list[str]:
    lines = (DATA / f"{name}.txt").read_text().splitlines()
    return [line.split()[0] for line in lines if line.startswith("--")]


def rest(*names: str) -> list[str]:
    seen = set(flags_of("grok1_40b_guide"))
    return list(dict.fromkeys(f for name in names for f in flags_of(name) if f not in seen))


TABLES = {
    "from-modellink.md": {
        "guide": lambda: migration.flags_table(flags_of("grok1_40b_guide")),
        "others": lambda: migration.flags_table(
            rest("grok1_40b_2024_09", "mixtral_8x7b_mindspeed")
        ),
    },
    "from-megatron.md": {
        "refused": lambda: migration.flags_table(REFUSED),
        "checked": lambda: migration.flags_table(STATEMENTS),
        "settings": migration.settings_table,
    },
}


@pytest.mark.parametrize("name", TABLES)
def test_the_page_is_in_step_with_the_code(name: str) -> None:
    path = ROOT / "docs" / name
    page = wanted = path.read_text(encoding="utf-8")
    for mark, table in TABLES[name].items():
        assert migration.BEGIN.format(mark) in page and migration.END.format(mark) in page
        wanted = migration.fill(wanted, mark, table())
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(wanted, encoding="utf-8")
        return
    assert page == wanted, f"docs/{name} is out of step; run this test with UPDATE_DOCS=1"


def test_our_own_names_are_settings() -> None:
    assert set(settings()) >= migration.OUR_OWN
