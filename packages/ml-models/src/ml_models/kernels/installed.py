"""Whether a library is installed, and in which version, without importing it."""

import re
import sys
from importlib import metadata
from importlib.util import find_spec


def is_importable(module: str) -> bool:
    """Whether `import module` would find something."""
    try:
        return find_spec(module) is not None
    except ValueError:  # A module that was made by hand and has no spec: it is there.
        return module in sys.modules


def needs_version(distribution: str, lowest: tuple[int, int]) -> str:
    """Why the installed version of a distribution cannot serve, or ""."""
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return f"{distribution} is not installed"
    # Major and minor alone: 2.13.0+cpu and release candidates of 2.13 count as 2.13.
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < lowest:
        wanted = ".".join(map(str, lowest))
        return f"it needs {distribution} {wanted} or newer, and {version} is installed"
    return ""
