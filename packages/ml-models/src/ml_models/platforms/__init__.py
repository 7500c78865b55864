"""What megatron-core needs from a device: the platforms cpu, cuda, npu and those of plug-ins.

A plug-in is a class with the methods of `base.Platform`. It is an entry point of the group
"ml_models.platforms" (name = "module:Class"), or given to `register`. It is found by its name, and
by "auto" where its device is there. docs/add-a-platform.md adds a platform from start to end.
"""

from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING

from ml_models.errors import PlatformError, UnknownPlatformError
from ml_models.megatron_core import deferred_compile, lines, requirements, stand_ins

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform

__all__ = [
    "check_platform_name",
    "device_type",
    "get_platform",
    "known_device_type",
    "make_core_importable",
    "platform_class",
    "platform_names",
    "register",
]

GROUP = "ml_models.platforms"

# Names of classes, not the classes: their modules import torch.
_BUILT_IN = MappingProxyType(
    {
        "cuda": "ml_models.platforms.cuda:CudaPlatform",
        "npu": "ml_models.platforms.npu:NpuPlatform",
        "cpu": "ml_models.platforms.cpu:CpuPlatform",
    }
)
_registered: dict[str, "type[Platform]"] = {}


def register(platform: "type[Platform]") -> None:
    """Make a platform known to this process by its `name`; PlatformError where the name is taken.

    Processes that others start do not inherit it. An entry point is found by all of them.
    """
    if platform.name == "auto" or platform.name in platform_names():
        raise PlatformError(
            f"The platform name {platform.name!r} is taken; known: auto, "
            f"{', '.join(platform_names())}. Choose another."
        )
    _registered[platform.name] = platform


def platform_names() -> list[str]:
    """Names that get_platform takes besides auto."""
    return sorted({*_BUILT_IN, *_registered, *_entry_points()})


def make_core_importable() -> None:
    """Check what is installed, then answer for what megatron-core imports in vain; changes no more.

    Called before the first import of megatron-core: by get_platform, and by what needs no device,
    such as building sample indexes. Raises RequirementError.
    """
    requirements.require_core()
    stand_ins.install(stand_ins.STAND_INS, lines.installed_line())
    deferred_compile.install()


def platform_class(name: str) -> "type[Platform]":
    """The class of the platform called `name`, whether its device is there or not.

    auto: the first whose device is there, the CPU last. torch must be installed. Raises
    UnknownPlatformError, and PlatformError where a plug-in cannot be imported.
    """
    check_platform_name(name)
    if name == "auto":
        name = next(candidate for candidate in _auto_order() if _load(candidate).available())
    return _load(name)


def get_platform(name: str = "auto") -> "Platform":
    """The platform called `name`; auto: the first whose device is there, the CPU last.

    Raises RequirementError before torch is imported where the installation cannot serve,
    PlatformError where the platform has no device here.
    """
    make_core_importable()
    if name == "cuda" and requirements.is_cpu_build():  # known before torch is imported
        raise _no_device(name, requirements.reason_of_cpu_build())
    requirements.require_torch()
    if name == "auto":
        name = next(candidate for candidate in _auto_order() if _load(candidate).available())
    check_platform_name(name)
    platform = _load(name)
    if not platform.available():
        # A plug-in may be older than this method of the protocol.
        why = getattr(platform, "why_unavailable", lambda: "its libraries cannot be loaded")
        raise _no_device(name, why())
    return platform()


def known_device_type(name: str) -> str | None:
    """The type of torch's device that the platform `name` brings, where it is known without torch.

    None for `auto` and plug-ins. Of our platforms it is the name, on machines without the device as
    well: a laptop can show what a configuration means on a GPU.
    """
    return name if name in _BUILT_IN else None


def device_type(name: str) -> str:
    """The type of torch's device of any platform. It may import torch and raise as get_platform."""
    return known_device_type(name) or get_platform(name).device.type


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


def _auto_order() -> list[str]:
    """Names in the order in which auto tries them: plug-ins after our devices, the CPU last."""
    plug_ins = sorted(set(platform_names()) - set(_BUILT_IN))
    return ["cuda", "npu", *plug_ins, "cpu"]


def _entry_points() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}


def _load(name: str) -> "type[Platform]":
    """The class of a known platform; its module is imported. Ours win over plug-ins."""
    if name not in _BUILT_IN and name in _registered:
        return _registered[name]
    value = _BUILT_IN.get(name) or _entry_points()[name]
    module, _, attribute = value.partition(":")
    try:
        platform: type[Platform] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PlatformError(f"The platform {value} cannot be loaded: {error}.") from error
    return platform
