"""What tools/check_house.py counts, on a small package whose figures are known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
FILES = {
    "__init__.py": "",
    "errors.py": "class Fault(Exception): ...\n",
    "rooms/__init__.py": "",
    "rooms/red.py": "from typing import Any\nfrom house.errors import Fault\nx: Any = 1\n",
    "rooms/blue.py": "def paint(colour: int) -> None:\n    from house.yard import grass\n",
    "yard/__init__.py": "",
    "yard/grass.py": "import house.rooms.red  # upwards\ny: int = 2\n",
    "wide.py": (
        "def wide(self, a, b, c, d, e, f, g, *, h): ...\ndef less(a, b, c, d, e, f, g): ...\n"
    ),
}


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name, text in FILES.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    spec = importlib.util.spec_from_file_location("house_figures", TOOLS / "house_figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses looks its own module up there.
    monkeypatch.setitem(sys.modules, "house_figures", module)
    spec.loader.exec_module(module)
    return module


def test_the_figures_of_a_small_package(figures: ModuleType, tmp_path: Path) -> None:
    package = figures.Package(tmp_path / "house")
    assert package.lines == 10
    assert package.rooms() == {"rooms": 5, "(top)": 3, "yard": 2}
    assert package.cycles() == ["house: rooms, yard"]
    assert package.any_share() == (1, 4)
    assert package.crowded_functions() == ["house.wide.wide"]
    assert package.late_imports() == ["house.rooms.blue:2"]
    assert package.comments() == 1
    assert figures.figures_of(package) == {
        "largest room, percent of lines": 50,
        "annotations with Any, percent": 25,
        "functions of many parameters": 1,
        "imports inside functions": 1,
        "import cycles between folders": 1,
    }


def test_a_cycle_below_a_room_counts_once(figures: ModuleType) -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert figures.cyclic_groups(graph) == [{"a", "b", "c"}]
