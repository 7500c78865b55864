"""What must be installed before a model can be built, checked before it is imported.

Each fault is one sentence with the pip command that helps. Neither torch nor megatron-core is
imported by `require_core`.
"""

import importlib
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec

from ml_models.errors import RequirementError
from ml_models.megatron_core.lines import require_supported


def require_core() -> None:
    """RequirementError unless torch is there and megatron-core is of a line that can serve."""
    if find_spec("torch") is None:
        raise RequirementError(
            f"torch is not installed. Run: {sys.executable} -m pip install torch"
        )
    require_supported()


def require_torch() -> None:
    """Import torch; RequirementError with the reason where its libraries do not load."""
    try:
        importlib.import_module("torch")
    except (ImportError, OSError) as error:
        missing = missing_torch_requirements()
        lacks = f" It lacks {', '.join(missing)}." if missing else ""
        raise RequirementError(
            f"torch cannot be imported: {error}.{lacks} Run: {sys.executable} -m pip install "
            f"--force-reinstall {torch_requirement()}"
        ) from error


@contextmanager
def explained() -> Iterator[None]:
    """Inside, a failed import of torch raises the sentence of `require_torch`."""
    try:
        yield
    except (ImportError, OSError):
        if "torch" not in sys.modules:  # an import that fails leaves no entry
            require_torch()
        raise


def torch_version() -> str | None:
    """The version of the installed torch, without importing it; None where none is recorded."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def torch_requirement() -> str:
    """The requirement for pip that names the installed release of torch, in its default build."""
    version = torch_version()
    return "torch" if version is None else f"torch=={version.partition('+')[0]}"


def is_cpu_build() -> bool:
    """Whether the installed torch says in its version that it was built for the CPU alone."""
    return (torch_version() or "").endswith("+cpu")


def reason_of_cpu_build() -> str:
    """Why a CPU build of torch finds no GPU, and the way out, as part of a sentence."""
    return (
        f"torch {torch_version()} was built without CUDA; for a build with it run "
        f"{sys.executable} -m pip install --force-reinstall {torch_requirement()}"
    )


def missing_torch_requirements() -> list[str]:
    """Distributions of GPU libraries that torch declares and that are not installed."""
    if torch_version() is None or platform.system() != "Linux":
        return []
    missing = []
    for requirement in metadata.requires("torch") or ():
        name = re.split(r"[^\w-]", requirement, maxsplit=1)[0]
        if name.startswith(("nvidia-", "cuda-")):
            try:
                metadata.version(name)
            except metadata.PackageNotFoundError:
                missing.append(name)
    return missing
