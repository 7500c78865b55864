"""docs/architecture.md: its answers lead to the names that they promise, no folder is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = {"ml_data": "ml-data", "ml_models": "ml-models", "ml_train": "ml-train"}
MAX_HOPS = 3
"""Folders and files that a reader opens below a package."""


def table(begin: str) -> list[list[str]]:
    """The cells of the table whose first line begins with `begin`."""
    lines = PAGE[PAGE.index(begin) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def source(path: str) -> Path:
    package = path.split("/")[0]
    return ROOT / "packages" / PACKAGES[package] / "src" / path


ANSWERS = table("| question |")


def test_there_are_twelve_questions() -> None:
    assert len({question for question, _, _ in ANSWERS}) == 12


@pytest.mark.parametrize(("question", "where", "names"), ANSWERS)
def test_an_answer_leads_to_its_names(question: str, where: str, names: str) -> None:
    assert question.endswith("?")
    paths = spans(where)
    assert 1 <= len(paths) <= 2
    assert all(len(path.split("/")) - 1 <= MAX_HOPS for path in paths)
    files = [file for path in paths for file in files_of(source(path))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    for name in spans(names):
        assert re.search(rf"^\s*(def|class) {name}\b|^{name}\b.* = ", text, re.MULTILINE), name


def files_of(path: Path) -> list[Path]:
    assert path.exists(), path
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_a_package_is_on_the_map(package: str) -> None:
    root = source(package)
    folders = {path.parent.relative_to(root).parts[0] for path in root.glob("*/**/*.py")}
    named = {name for first, _ in table(f"| `{package}/` |") for name in spans(first)}
    assert named == folders


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_that_the_map_names_lies_in_its_folder(package: str) -> None:
    for first, content in table(f"| `{package}/` |"):
        folders = [source(f"{package}/{name}") for name in spans(first)]
        for name in spans(content):
            if name.endswith((".py", "/")):
                roots = [source(package)] if name.split("/")[0] in spans(first) else folders
                assert all((root / name).exists() for root in roots), name
