"""tools/find_python.sh among interpreters that run, and stand-ins that exist but do not run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "find_python.sh"


def add(folder: Path, name: str, version: str | None) -> str:
    """A command that passes as Python `version` with venv; None: one that never starts Python."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    # The question of the script holds the version that it looks for.
    answer = f"""case "$2" in *"!= '{version}'"*) exit 0;; esac\nexit 1"""
    stand_in = f'echo "pyenv: {name}: command not found" >&2\nexit 127'
    path.write_text(f"#!/bin/sh\n{stand_in if version is None else answer}\n", encoding="ascii")
    path.chmod(0o755)
    return str(path)


def find(
    folders: list[Path], *arguments: str, python: str | None = None
) -> subprocess.CompletedProcess[str]:
    env = {"PATH": ":".join(map(str, folders)), **({"PYTHON": python} if python else {})}
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, str(SCRIPT), *arguments],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_newest_that_runs(tmp_path: Path) -> None:
    add(tmp_path, "python3.11", "3.11")
    wanted = add(tmp_path, "python3.12", "3.12")
    assert find([tmp_path]).stdout.strip() == wanted
    wanted = add(tmp_path, "python3.13", "3.13")
    assert find([tmp_path]).stdout.strip() == wanted


@pytest.mark.parametrize("name", ["python3.13", "python3", "python"])
def test_stand_ins_do_not_count(tmp_path: Path, name: str) -> None:
    """pyenv puts one for each version in front of PATH."""
    for stand_in in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        add(tmp_path / "shims", stand_in, None)
    wanted = add(tmp_path / "bin", name, "3.13")
    assert find([tmp_path / "shims", tmp_path / "bin"]).stdout.strip() == wanted


def test_python_chooses(tmp_path: Path) -> None:
    add(tmp_path, "python3.13", "3.13")
    wanted = add(tmp_path / "elsewhere", "my-python", "3.10")
    assert find([tmp_path], python=wanted).stdout.strip() == wanted
    refused = find([tmp_path], python=add(tmp_path, "python3.9", "3.9"))
    assert refused.returncode == 1 and not refused.stdout
    assert "does not run as Python 3.10 to 3.13" in refused.stderr
    assert "Set PYTHON to an interpreter that does" in refused.stderr


def test_none_says_what_to_install(tmp_path: Path) -> None:
    add(tmp_path, "python3.13", None)
    add(tmp_path, "python3", "3.9")
    refused = find([tmp_path])
    assert refused.returncode == 1 and not refused.stdout
    assert "apt install python3 python3-venv" in refused.stderr


def test_a_version_among_pyenvs(tmp_path: Path) -> None:
    pyenv = tmp_path / "bin" / "pyenv"
    add(tmp_path / "bin", "python3.10", None)
    pyenv.write_text(f"#!/bin/sh\necho {tmp_path / 'root'}\n", encoding="utf-8")
    pyenv.chmod(0o755)
    wanted = add(tmp_path / "root/versions/3.10.13/bin", "python", "3.10")
    assert find([tmp_path / "bin"], "--version", "3.10").stdout.strip() == wanted
    assert find([tmp_path / "bin"], "--version", "3.12").returncode == 1
