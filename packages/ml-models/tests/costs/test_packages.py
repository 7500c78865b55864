"""Modules that stand for packages of another machine."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ml_models.costs.packages import importable


def test_the_module_is_found_inside_alone() -> None:
    stand_in = ModuleType("not_a_package_of_this_machine")
    with importable(stand_in):
        assert importlib.import_module(stand_in.__name__) is stand_in
    with pytest.raises(ImportError):
        importlib.import_module(stand_in.__name__)


def test_a_hidden_package_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("hidden_package")
    monkeypatch.setitem(sys.modules, stand_in.__name__, None)
    with importable(stand_in):
        assert importlib.import_module(stand_in.__name__) is stand_in
    assert sys.modules[stand_in.__name__] is None


def test_what_is_first_imported_inside_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second import would make a second module, and a patch of it would not reach the first."""
    (tmp_path / "first_met_inside.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with importable(ModuleType("not_a_package_of_this_machine")):
        first = importlib.import_module("first_met_inside")
    assert importlib.import_module("first_met_inside") is first
    del sys.modules["first_met_inside"]
