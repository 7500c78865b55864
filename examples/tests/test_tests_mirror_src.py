"""A test of a module lies in the folder of `tests` that has the name of the module's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
SUBJECTS = {
    "ml-data": {"bytes", "exit_codes"},
    "ml-models": {"add_a_model", "add_a_platform", "readme"},
    "ml-train": {"devices", "invariance", "core_uses"},
}
"""Tests of a whole package, which no module mirrors: flat files, or a folder of them."""


@pytest.mark.parametrize("package", SUBJECTS)
def test_tests_mirror_src(package: str) -> None:
    tests = PACKAGES / package / "tests"
    source = PACKAGES / package / "src" / package.replace("-", "_")
    files = [path.relative_to(tests) for path in tests.rglob("test_*.py")]
    assert len(files) > 20
    stray = []
    for file in files:
        if len(file.parts) > 1:
            is_mirrored = (source / file.parent).is_dir() or file.parts[0] in SUBJECTS[package]
        else:
            subject = file.stem.removeprefix("test_")
            modules = [source / f"{subject}.py", source / subject]
            is_mirrored = subject in SUBJECTS[package] or any(path.exists() for path in modules)
        if not is_mirrored:
            stray.append(str(file))
    assert not stray
