"""Lower bounds that the packages declare are the versions that the `lowest` sessions install."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

tomllib = pytest.importorskip("tomllib")  # Python 3.11 and later

ROOT = Path(__file__).parents[2]
SESSIONS = {"ml-data": ("ml-data",), "ml-train": ("ml-models", "ml-train")}
"""Constraints file `NAME-lowest.txt`, and the packages whose bounds it proves."""
WITH_EXTRAS = {"ml-data"}
"""Packages whose optional requirements the session installs, too."""
OF_THIS_REPOSITORY = {"ml-data", "ml-models", "ml-train"}


def declared(package: str) -> list[Requirement]:
    """What `package` requires, with what its extras require where the session installs them."""
    text = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    lines = list(project["dependencies"])
    if package in WITH_EXTRAS:
        lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    requirements = [Requirement(line) for line in lines]
    return [
        requirement for requirement in requirements if requirement.name not in OF_THIS_REPOSITORY
    ]


def pinned(session: str) -> dict[str, Version]:
    lines = (ROOT / "constraints" / f"{session}-lowest.txt").read_text(encoding="utf-8").split("\n")
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: Version(version) for name, version in pins}


@pytest.mark.parametrize(
    ("session", "package"),
    [(session, package) for session, packages in SESSIONS.items() for package in packages],
)
def test_every_lower_bound_is_installed_by_the_session(session: str, package: str) -> None:
    pins = pinned(session)
    requirements = declared(package)
    assert len(requirements) > 3
    for requirement in requirements:
        (bound,) = [part.version for part in requirement.specifier if part.operator == ">="]
        assert pins.get(requirement.name) == Version(bound), requirement
