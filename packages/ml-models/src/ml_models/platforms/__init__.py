"""What megatron-core needs from a device: cpu, cuda, npu, and what a plug-in brings.

A plug-in is an entry point of the group "ml_models.platforms": name = "module:Class", the class
with the methods of `Platform`. It is found by name, and by "auto" where its device is there.
"""

from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ml_models.errors import PlatformError, UnknownPlatformError
from ml_models.megatron_core import deferred_compile, lines, requirements, stand_ins

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform

__all__ = ["check_platform_name", "get_platform", "make_core_importable", "platform_names"]

GROUP = "ml_models.platforms"

# In the order in which auto tries them; plug-ins come between the devices and the CPU.
_OURS = MappingProxyType(
    {
        "cuda": "ml_models.platforms.cuda:CudaPlatform",
        "npu": "ml_models.platforms.npu:NpuPlatform",
        "cpu": "ml_models.platforms.cpu:CpuPlatform",
    }
)


def platform_names() -> list[str]:
    """Names that get_platform takes besides auto."""
    return sorted(_classes())


def make_core_importable() -> None:
    """Check what is installed, then answer for what megatron-core imports in vain; changes no more.

    Called before the first import of megatron-core: by get_platform, and by what needs no device,
    such as building sample indexes. Raises RequirementError.
    """
    requirements.require_core()
    stand_ins.install(stand_ins.STAND_INS, lines.installed_line())
    deferred_compile.install()


def get_platform(name: str = "auto") -> "Platform":
    """The platform called `name`; auto: the first whose device is there, the CPU last.

    Raises RequirementError before torch is imported where the installation cannot serve.
    """
    make_core_importable()
    if name == "cuda" and requirements.is_cpu_build():  # known before torch is imported
        raise _no_device(name, requirements.reason_of_cpu_build())
    requirements.require_torch()
    known = _classes()
    if name == "auto":
        ordered = ["cuda", "npu", *sorted(set(known) - set(_OURS)), "cpu"]
        name = next(each for each in ordered if _load(known[each]).available())
    check_platform_name(name)
    chosen = _load(known[name])
    if not chosen.available():
        reason = getattr(chosen, "why_unavailable", lambda: "its libraries cannot be loaded")()
        raise _no_device(name, reason)
    platform: Platform = chosen()
    return platform


def _no_device(name: str, reason: str) -> PlatformError:
    return PlatformError(
        f"The platform {name} has no device here: {reason}. Choose --device cpu, or auto for what "
        "there is."
    )


def check_platform_name(name: str) -> None:
    """Raise UnknownPlatformError unless get_platform knows the name. Needs no torch."""
    if name != "auto" and name not in platform_names():
        raise UnknownPlatformError(
            f"No platform is called {name!r}; known: auto, {', '.join(platform_names())}. A "
            f"plug-in registers one as an entry point of the group {GROUP}."
        )


def _classes() -> dict[str, str]:
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    return {**found, **_OURS}


def _load(value: str) -> Any:
    module, _, name = value.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PlatformError(f"The platform {value} cannot be loaded: {error}.") from error
