"""The megatron-core lines that are supported, and which one is installed.

A line is major.minor, such as "0.19". megatron-core is not imported here: its line must be known
before it is imported, because platforms adapt it first.
"""

import functools
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ml_models.errors import RequirementError


@dataclass(frozen=True)
class SupportedLine:
    """A line of megatron-core that the tests run on."""

    name: str
    version: str
    """The release that was tested, and that error messages tell to install."""
    first_python: tuple[int, int]
    """megatron-core's own lower bound of Python."""


# docs/verification.md has what ran on each.
SUPPORTED = (
    SupportedLine("0.19", "0.19.2", (3, 12)),
    SupportedLine("0.18", "0.18.2", (3, 12)),
    SupportedLine("0.17", "0.17.1", (3, 12)),
    SupportedLine("0.16", "0.16.1", (3, 10)),
    SupportedLine("0.12", "0.12.1", (3, 10)),  # MindSpeed-LLM's
)


@dataclass(frozen=True)
class Lines:
    """A range of lines, both ends included; None leaves an end open."""

    first: str | None = None
    last: str | None = None

    def __contains__(self, line: str) -> bool:
        low = self.first is None or order_of(line) >= order_of(self.first)
        return low and (self.last is None or order_of(line) <= order_of(self.last))


def order_of(line: str) -> tuple[int, int]:
    """A line as two numbers, by which 0.9 comes before 0.12; as texts it would come after."""
    major, minor = line.split(".")[:2]
    return int(major), int(minor)


@functools.cache
def installed_version() -> str:
    """megatron-core's version, without importing it; RequirementError where it is missing.

    The file package_info.py of the copy that an import would take decides: MindSpeed users put
    Megatron-LM's source tree on the path, which no installed distribution describes.
    """
    spec = find_spec("megatron.core") if find_spec("megatron") else None
    for folder in (spec and spec.submodule_search_locations) or ():
        info = Path(folder) / "package_info.py"
        if info.is_file():
            text = info.read_text(encoding="utf-8")
            numbers = re.findall(r"^(?:MAJOR|MINOR|PATCH) = (\d+)", text, re.MULTILINE)
            if len(numbers) == 3:
                return ".".join(numbers)
    try:
        return metadata.version("megatron-core")
    except metadata.PackageNotFoundError:
        raise RequirementError(
            f"megatron-core is not installed. Run: {install_command()}"
        ) from None


def is_source_tree() -> bool:
    """Whether an import takes Megatron-LM's source tree, which pip has not installed.

    A wheel's lower bound of Python is not checked there. The code of 0.17 and 0.18 runs on 3.10,
    and Ascend's stacks use it so.
    """
    spec = find_spec("megatron.core") if find_spec("megatron") else None
    folders = [
        Path(folder).resolve() for folder in (spec and spec.submodule_search_locations) or ()
    ]
    try:
        installed = Path(
            str(metadata.distribution("megatron-core").locate_file("megatron/core"))
        ).resolve()
    except metadata.PackageNotFoundError:
        return bool(folders)
    return bool(folders) and installed not in folders


def installed_line() -> str:
    """Major and minor version of the installed megatron-core."""
    return ".".join(installed_version().split(".")[:2])


def is_supported(line: str) -> bool:
    """Whether the tests run on `line`."""
    return any(line == supported.name for supported in SUPPORTED)


def is_newer(line: str) -> bool:
    """Whether `line` came after every line that the tests run on."""
    return all(order_of(line) > order_of(supported.name) for supported in SUPPORTED)


def default_release(python: tuple[int, int] = sys.version_info[:2]) -> str:
    """The newest tested release for a version of Python; this process's unless given."""
    return next(line.version for line in SUPPORTED if python >= line.first_python)


def install_command() -> str:
    """The pip command that installs the default release into this environment."""
    return f"{sys.executable} -m pip install megatron-core=={default_release()}"


def require_supported() -> None:
    """RequirementError unless the installed megatron-core can serve with this Python.

    A line newer than all that were tested may serve: check.py decides once it can be imported.
    """
    line, version = installed_line(), installed_version()
    tested = next((supported for supported in SUPPORTED if supported.name == line), None)
    if tested is None and not is_newer(line):
        names = ", ".join(supported.name for supported in reversed(SUPPORTED))
        raise RequirementError(
            f"megatron-core {version} is installed; ml-models supports the lines {names}. "
            f"Run: {install_command()}"
        )
    first_python = (tested or SUPPORTED[0]).first_python
    if sys.version_info[:2] < first_python and not is_source_tree():
        raise RequirementError(
            f"megatron-core {version} needs Python {first_python[0]}.{first_python[1]} or newer; "
            f"this is Python {platform.python_version()}. Run: {install_command()}"
        )


def __getattr__(name: str) -> str:
    # A public name of 1.0. It is a function of the installation, which an import must not read.
    if name == "CORE_LINE":
        return installed_line()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
