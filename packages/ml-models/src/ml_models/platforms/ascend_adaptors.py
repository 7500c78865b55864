"""The libraries that adapt megatron-core to Ascend's NPUs: which one serves, and how it is loaded.

There are two, and megatron-core trains without either. MindSpeed serves the lines up to 0.16 by
itself. MegatronAdaptor with TransformerEngineNPU (TE-NPU) serves 0.17 and 0.18; MindSpeed's
branches for these lines are a layer on top of it. All of them replace functions of megatron-core by
being imported, so they come after torch_npu and before the first module of megatron-core.

Nothing is imported before the choice is made: what is installed is looked up by name. No NPU was
available to this project, so the tests use stand-ins of these libraries. docs/ascend.md has the
steps of an installation, and versions.toml has the versions that belong together.
"""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from ml_models.errors import PlatformError
from ml_models.megatron_core.lines import is_supported

PAGE = "docs/ascend.md"
_MINDSPEED_ENTRY = "mindspeed.megatron_adaptor"


@dataclass(frozen=True, kw_only=True)
class Adaptor:
    """A library, the lines of megatron-core that it has a branch for, and what it needs."""

    name: str
    imports: tuple[str, ...]
    """Modules whose import adapts megatron-core, in this order."""
    branches: Mapping[str, str]
    """Line of megatron-core -> branch of the library's repository."""
    needs: tuple[str, ...]
    """Modules that it imports and does not bring."""


MINDSPEED = Adaptor(
    name="MindSpeed",
    imports=(_MINDSPEED_ENTRY,),
    branches=MappingProxyType(
        {
            "0.12": "26.1.0_core_r0.12.1",
            "0.14": "core_r0.14.0",
            "0.15": "core_r0.15.3",
            "0.16": "core_r0.16.0",
        }
    ),
    needs=("megatron.training", "six", "scipy"),
)
MEGATRON_ADAPTOR = Adaptor(
    name="MegatronAdaptor",
    imports=("megatron_adaptor",),
    branches=MappingProxyType({"0.17": "core_r0.17.0", "0.18": "core_r0.18.0"}),
    needs=("transformer_engine",),
)
MINDSPEED_ON_ADAPTOR = Adaptor(
    name="MindSpeed on MegatronAdaptor",
    imports=(*MEGATRON_ADAPTOR.imports, _MINDSPEED_ENTRY),
    branches=MEGATRON_ADAPTOR.branches,
    needs=(*MEGATRON_ADAPTOR.needs, *MINDSPEED.needs),
)

_FIXES = MappingProxyType(
    {
        "megatron.training": "put the source tree of Megatron-LM, at the tag of your "
        "megatron-core, on PYTHONPATH; pip's megatron-core has no such module",
        "transformer_engine": "install TransformerEngineNPU from "
        "https://gitcode.com/Ascend/TransformerEngineNPU",
        "six": f"run {sys.executable} -m pip install six",
        "scipy": f"run {sys.executable} -m pip install scipy",
    }
)
"""Missing module -> the way out, as part of a sentence."""


def choose(line: str) -> Adaptor | None:
    """The adaptor that serves megatron-core `line` here; None where none is installed.

    Raises PlatformError, in a sentence with the fix, where the libraries that are installed cannot
    serve the line, contradict each other, or lack what they need. Imports none of them.
    """
    _refuse_nvidia_transformer_engine()
    has_mindspeed, has_adaptor = _is_there("mindspeed"), _is_there("megatron_adaptor")
    if not has_mindspeed and not has_adaptor:
        if _is_there("transformer_engine"):
            raise PlatformError(
                "TransformerEngineNPU is installed without MegatronAdaptor, which makes "
                "megatron-core use it. Install MegatronAdaptor from "
                f"https://gitcode.com/Ascend/MegatronAdaptor ({_pairs(MEGATRON_ADAPTOR)}), or "
                f"uninstall TransformerEngineNPU. {PAGE} has the steps."
            )
        return None
    if not has_mindspeed:
        adaptor = MEGATRON_ADAPTOR
    elif _is_layer():
        if not has_adaptor:
            raise PlatformError(
                "The installed MindSpeed is a branch that imports MegatronAdaptor, which is not "
                "installed. Install it from https://gitcode.com/Ascend/MegatronAdaptor "
                f"({_pairs(MEGATRON_ADAPTOR)}), or another branch of MindSpeed "
                f"({_pairs(MINDSPEED)}). {PAGE} has the steps."
            )
        adaptor = MINDSPEED_ON_ADAPTOR
    elif has_adaptor:
        raise PlatformError(
            "MegatronAdaptor and a MindSpeed for megatron-core 0.16 or older are installed, which "
            "replace the same functions of megatron-core. Uninstall one of them: "
            f"MegatronAdaptor serves {_pairs(MEGATRON_ADAPTOR)}, this MindSpeed "
            f"{_pairs(MINDSPEED)}. {PAGE} has the steps."
        )
    else:
        adaptor = MINDSPEED
    _require_line(adaptor, line)
    _require_needs(adaptor)
    return adaptor


def load(line: str) -> list[str]:
    """Import the adaptor for `line`, if there is one; returns the modules, for the log.

    transfer_to_npu must have been imported. Raises PlatformError where megatron-core was imported
    before, as the adaptors have no effect on modules that others have imported already.
    """
    adaptor = choose(line)
    if adaptor is None:
        return []
    waiting = [module for module in adaptor.imports if module not in sys.modules]
    if waiting and "megatron.core" in sys.modules:
        raise PlatformError(
            f"megatron-core was imported before the npu platform was applied; {adaptor.name} must "
            "come first. Call get_platform('npu').apply() at the start."
        )
    for module in adaptor.imports:
        _import_without_arguments(module)
    return list(adaptor.imports)


def _import_without_arguments(module: str) -> None:
    """Import a module that reads the command line when it is imported.

    MindSpeed parses sys.argv: -h ends the process there, and a flag of ours that it knows by the
    same name would switch on a part of it. So it sees the name of the program alone.
    """
    words = sys.argv
    sys.argv = words[:1]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise PlatformError(
            f"{module} cannot be imported: {error}. {PAGE} has the versions that belong together."
        ) from error
    finally:
        sys.argv = words


def _require_line(adaptor: Adaptor, line: str) -> None:
    own = _line_of_mindspeed() if adaptor is MINDSPEED else None
    if line in adaptor.branches and own in (None, line):
        return
    what = f"MindSpeed's branch for megatron-core {own}" if own else adaptor.name
    served = {name: branch for name, branch in adaptor.branches.items() if is_supported(name)}
    fix = (
        f"Install its branch {adaptor.branches[line]}"
        if line in adaptor.branches
        else f"Install a megatron-core that {adaptor.name} serves ({_pairs(adaptor, served)})"
    )
    raise PlatformError(
        f"{what} is installed, but the installed megatron-core is {line}. {fix}, or uninstall "
        f"{adaptor.name}. {PAGE} has the steps."
    )


def _require_needs(adaptor: Adaptor) -> None:
    missing = [module for module in adaptor.needs if not _is_there(module)]
    if missing:
        fixes = "; ".join(f"{module}: {_FIXES[module]}" for module in missing)
        raise PlatformError(
            f"{adaptor.name} imports {', '.join(missing)}, which cannot be found. {fixes}. "
            f"{PAGE} has the steps."
        )


def _refuse_nvidia_transformer_engine() -> None:
    # Its compiled module is the difference: TE-NPU is Python alone, and has the same package name.
    if _is_there("transformer_engine_torch"):
        raise PlatformError(
            "NVIDIA's TransformerEngine is installed, which needs CUDA and has the module name of "
            f"TransformerEngineNPU. Run {sys.executable} -m pip uninstall transformer-engine "
            "transformer-engine-torch transformer-engine-cu12 transformer-engine-cu13"
        )


def _is_layer() -> bool:
    """Whether the installed MindSpeed is one that builds on MegatronAdaptor (0.17 and later).

    Its version does not tell: the branches for 0.17 and 0.18 call themselves 0.12.1.
    """
    origin = getattr(importlib.util.find_spec("mindspeed"), "origin", None)
    if not origin or not Path(origin).is_file():
        return False
    return "megatron_adaptor" in Path(origin).read_text(encoding="utf-8", errors="replace")


def _line_of_mindspeed() -> str | None:
    """The line that the installed MindSpeed names in its version; None where it has none."""
    try:
        return ".".join(metadata.version("mindspeed").split(".")[:2])
    except metadata.PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    """Whether an import would find the module. A parent package is imported, the module is not."""
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _pairs(adaptor: Adaptor, branches: Mapping[str, str] | None = None) -> str:
    rows = adaptor.branches if branches is None else branches
    return ", ".join(f"{line} with {branch}" for line, branch in rows.items())
