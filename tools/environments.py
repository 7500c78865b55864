"""The environments of the nox sessions that need torch: a base per Python, a thin layer per line.

A base holds every third-party package but megatron-core; with the index's CUDA build of torch it
takes 6 GB and minutes. A layer is an environment that sees its base's packages and adds a
megatron-core line and this repository's packages, in seconds. Both lie under .nox.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import nox
from nox.project import load_toml

ROOT = Path(__file__).parent.parent
PACKAGES = ("ml-data", "ml-models", "ml-train")
TEST_TOOLS = (
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.8",
    "hypothesis>=6.100",
    "psutil>=5.9",
)
# What only tests use: peers that they compare with, and a stand-in for S3.
TEST_PEERS = {
    "ml-data": (
        "fsspec",
        "zstandard",
        "moto[s3,server]>=5",
        "transformers",
        "tiktoken>=0.13",
        "gigatoken>=0.10",
    ),
    "ml-models": ("transformers", "ml-dtypes"),
    "ml-train": (),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One megatron-core line: its release under test and the Pythons that have a wheel of it."""

    release: str
    pythons: tuple[str, ...]
    # What a wheel's own requirements are replaced with; None installs them as they are.
    requirements: tuple[str, ...] | None = None

    @property
    def constraints(self) -> str:
        """The constraints file that pins this line."""
        return f"constraints/core-{self.release}.txt"


LINES = {
    "0.19": Line(release="0.19.2", pythons=("3.12", "3.13")),
    "0.18": Line(release="0.18.2", pythons=("3.12", "3.13")),
    "0.17": Line(release="0.17.1", pythons=("3.12", "3.13")),
    "0.16": Line(release="0.16.1", pythons=("3.11", "3.10", "3.12", "3.13")),
    # The rest of what 0.12's wheel requires (modelopt, zarr, wandb) serves no part of training.
    "0.12": Line(release="0.12.1", pythons=("3.11", "3.10"), requirements=("einops", "packaging")),
}


def default_line(version: str) -> Line:
    """The line that pip takes on Python `version`, as in constraints/default.txt."""
    return LINES["0.19"] if "0.19" in LINES and version in LINES["0.19"].pythons else LINES["0.16"]


def find_python(version: str) -> str | None:
    """The path of an interpreter of `version` that runs, from PATH or pyenv."""
    command = ["bash", str(ROOT / "tools/find_python.sh"), "--version", version]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def python_for(session: nox.Session, line: Line, driver: str) -> str:
    """The version of Python that tests `line`: nox's own where it has a wheel, else another."""
    candidates = (driver, *line.pythons) if driver in line.pythons else line.pythons
    for version in candidates:
        if find_python(version):
            return version
    wanted = " or ".join(line.pythons)
    session.skip(f"megatron-core {line.release} has wheels for Python {wanted}: none runs here")


def third_party(packages: tuple[str, ...], tested: tuple[str, ...]) -> list[str]:
    """What `packages` and the tests of `tested` require, less megatron-core and our packages."""
    needs: list[str] = [*TEST_TOOLS]
    for package in packages:
        project = load_toml(ROOT / "packages" / package / "pyproject.toml")["project"]
        needs += project["dependencies"]
    for package in tested:
        needs += TEST_PEERS[package]
    own = ("megatron-core", *PACKAGES)
    return [need for need in needs if not need.startswith(own)]


def extras(package: str) -> list[str]:
    """What the extras of `package` require."""
    project = load_toml(ROOT / "packages" / package / "pyproject.toml")["project"]
    return [need for needs in project["optional-dependencies"].values() for need in needs]


def base(session: nox.Session, version: str) -> Path:
    """The environment .nox/base-VERSION: torch and all else but megatron-core."""
    folder = ROOT / ".nox" / f"base-{version}"
    python = folder / "bin" / "python"
    if not python.exists():
        session.log(f"torch and its requirements for Python {version}: up to 3 GB where not cached")
        session.run(find_python(version) or version, "-m", "venv", str(folder), external=True)
    pip_install(session, python, "-c", "constraints/base.txt", *third_party(PACKAGES, PACKAGES))
    return folder


def layer(session: nox.Session, version: str, line: Line, *extra: str) -> Path:
    """An environment over the base of Python `version`: `line`, our packages, `extra`."""
    folder = ROOT / ".nox" / f"core-{line.release}-python-{version}"
    python = folder / "bin" / "python"
    packages = next((base(session, version) / "lib").glob("python*")) / "site-packages"
    if not python.exists():
        session.run(find_python(version) or version, "-m", "venv", str(folder), external=True)
    own_packages = next((folder / "lib").glob("python*")) / "site-packages"
    # Python reads a .pth file after the environment's own packages, which therefore win.
    (own_packages / "base.pth").write_text(f"{packages}\n")
    install_core(session, python, line, line.constraints)
    # The base has what our packages require; pip would add what 0.12's wheel requires.
    editable = [part for name in PACKAGES for part in ("-e", f"packages/{name}")]
    pip_install(session, python, "--no-deps", *editable)
    if extra:
        pip_install(session, python, "-c", line.constraints, *extra)
    return folder


def install_core(session: nox.Session, python: Path, line: Line, constraints: str) -> None:
    """megatron-core of `line` with what it requires, or with what of that is needed."""
    if line.requirements is None:
        pip_install(session, python, "-c", constraints, "megatron-core")
    else:
        core = ("megatron-core", *line.requirements)
        pip_install(session, python, "-c", constraints, "--no-deps", *core)


def pip_install(session: nox.Session, python: Path, *arguments: str) -> None:
    """pip install in the environment of `python`."""
    session.run(str(python), "-m", "pip", "install", *arguments, external=True, silent=True)
