"""Which packages count as installed, for the choice of forms on another machine than this one."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ml_models.platforms.patch import Patch


def installed_packages(modules: frozenset[str]) -> tuple[Patch, ...]:
    """Rows with which forms find these modules, and no others, beside the installed torch."""
    cuda_build = Patch(
        target="ml_models.kernels.forms:is_cpu_build",
        make=lambda _: lambda: False,
        reason="the device's machine has a build of torch for it",
    )
    return cuda_build, *(
        Patch(
            target=f"{module}:{name}",
            make=make,
            reason="the device's machine has other packages than this one",
        )
        for module in ("ml_models.kernels.forms", "ml_models.kernels.attention.forms")
        for name, make in (
            ("is_importable", lambda _: modules.__contains__),
            ("needs_version", lambda original: _version_of(original, modules)),
        )
    )


@contextlib.contextmanager
def importable(module: ModuleType) -> Iterator[None]:
    """Inside, importing the module's name gives `module`.

    Other entries of sys.modules stay: a module that is first imported inside would else be
    imported a second time later, beside functions of the first that are in use.
    """
    name = module.__name__
    before = {key: entry for key, entry in sys.modules.items() if key == name}
    sys.modules[name] = module
    try:
        yield
    finally:
        sys.modules.pop(name, None)
        sys.modules.update(before)


def _version_of(original: Any, modules: frozenset[str]) -> Callable[..., str]:
    def needs_version(distribution: str, lowest: tuple[int, int]) -> str:
        if distribution == "torch" and callable(original):
            return str(original(distribution, lowest))
        there = distribution.replace("-", "_") in modules
        return "" if there else f"{distribution} is not installed"

    return needs_version
