"""A Python environment that the user names: where its Python is, and what is installed in it.

Its own Python is run and asked, as only that Python knows what an import there gives. Whatever is
wrong with an environment is told in one sentence that says how to mend it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ml_train.errors import ConfigError

_PYTHONS = ("bin/python", "bin/python3", "Scripts/python.exe")
_ANSWER_SECONDS = 600
"""Bounds a Python that hangs; an import of torch from a slow shared disk may take minutes."""
_MARK = "ml-train environment: "
"""Marks the line of the answer: libraries may print lines of their own while they are imported."""
_INSTALLED = ("ml-train", "ml-models", "ml-data", "megatron-core", "torch")
_QUESTION = f"""
import json, sys
from importlib import import_module, metadata
facts = {{"python": "%d.%d.%d" % sys.version_info[:3], "errors": {{}}}}
for name in {_INSTALLED!r}:
    try:
        facts[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        facts[name] = None
for name in ("torch", "megatron.core", "ml_models.platforms", "ml_train.cli"):
    try:
        import_module(name)
    except Exception as error:
        facts["errors"][name] = type(error).__name__ + ": " + str(error)
print({_MARK!r} + json.dumps(facts))
"""
_BOUND_TO_A_PYTHON = ("PYTHONHOME", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python that can run ml-train."""

    name: str
    """As the user wrote it, with its flag: --from ENV."""
    python: Path
    versions: Mapping[str, str]
    """python, ml-train, ml-models, ml-data, megatron-core and torch."""

    def __str__(self) -> str:
        shown = ("python", "torch", "megatron-core", "ml-train")
        return f"{self.name}: " + ", ".join(f"{name} {self.versions[name]}" for name in shown)


def own_variables() -> dict[str, str]:
    """This process's environment variables without those that bind a Python to its folder."""
    return {name: value for name, value in os.environ.items() if name not in _BOUND_TO_A_PYTHON}


def open_environment(flag: str, given: str) -> Environment:
    """The environment that `given` names, a folder or a Python. Raises ConfigError."""
    name = f"{flag} {given}"
    python = _python_of(name, given)
    facts = _ask(name, python)
    if facts["ml-train"] is None:
        raise ConfigError(
            f"{name}: ml-train is not installed there; install it with {python} -m pip install "
            "ml-train."
        )
    for module, error in cast("dict[str, str]", facts["errors"]).items():
        raise ConfigError(f"{name}: {module} cannot be imported there ({_first_line(error)}).")
    versions = {key: str(facts[key]) for key in ("python", *_INSTALLED)}
    return Environment(name=name, python=python, versions=versions)


def refuse_other_version(environment: Environment, version: str) -> None:
    """ConfigError unless the environment has ml-train of `version`, which is this process's."""
    other = environment.versions["ml-train"]
    if other != version:
        raise ConfigError(
            f"{environment.name}: ml-train {other} is installed there and {version} here; install "
            f"one version in both, or add --ml-train-may-differ to compare them all the same."
        )


def _python_of(name: str, given: str) -> Path:
    path = Path(given).expanduser().absolute()  # not resolved: a venv's Python is a link
    if path.is_dir():
        for inner in _PYTHONS:
            python = path / inner
            if python.is_symlink() and not python.exists():
                raise ConfigError(
                    f"{name}: its {inner} is a link to {python.readlink()}, which is not there any "
                    "more; make the environment anew."
                )
            if python.is_file():
                return python
        raise ConfigError(
            f"{name}: no environment, it has no {_PYTHONS[0]}; name the folder that python -m venv "
            "or conda made, or a Python."
        )
    if path.is_symlink() and not path.exists():
        raise ConfigError(f"{name}: a link to {path.readlink()}, which is not there.")
    if path.is_file():
        if not os.access(path, os.X_OK):
            raise ConfigError(f"{name}: a file that cannot be run; name a folder or a Python.")
        return path
    if not path.exists() and os.sep not in given and (command := shutil.which(given)):
        return Path(command)
    raise ConfigError(f"{name}: there is no such folder or Python.")


def _ask(name: str, python: Path) -> dict[str, object]:
    """Versions and what fails to import, by the environment's own Python."""
    try:
        done = subprocess.run(
            [str(python), "-W", "ignore", "-c", _QUESTION],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            env=own_variables(),
            check=False,
        )
    except OSError as error:
        raise ConfigError(f"{name}: {python} cannot be started ({error.strerror}).") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{name}: {python} gave no answer in {_ANSWER_SECONDS} seconds."
        ) from error
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            try:
                facts: dict[str, object] = json.loads(line.removeprefix(_MARK))
            except ValueError:
                break
            return facts
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise ConfigError(
        f"{name}: {python} is no Python that works: it ended with exit code {done.returncode} "
        f"({last})."
    )


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else "without a reason"
