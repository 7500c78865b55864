"""Stand-ins for modules that megatron-core imports, does not need, and may not find.

megatron-core 0.18 and 0.19 import triton in the file of a feature that is off: paged stash, which
keeps the experts' activations in pages of GPU memory. triton comes with the CUDA build of torch
alone, so that `import megatron.core` fails on a CPU build. Here that file gets a stand-in whose
kernels raise when they are launched.

The stand-in is seen by that file only: its `import` statement is answered through the __import__ of
its own __builtins__. An entry in sys.modules would tell torch and others that triton is there.
"""

import builtins
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ml_models.errors import PlatformError
from ml_models.megatron_core.import_hook import ModuleFinder
from ml_models.megatron_core.lines import Lines


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """A module, and the file of megatron-core that gets a stand-in for it."""

    module: str
    """What is imported, and may be missing."""
    importer: str
    """The module of megatron-core that imports it."""
    lines: Lines
    reason: str
    link: str


_REASON = "importing megatron.core imports triton, which CPU builds of torch do not bring"
_CORE = "https://github.com/NVIDIA/Megatron-LM/blob/{}/megatron/core/transformer/moe/"

STAND_INS: tuple[StandIn, ...] = (
    StandIn(
        module="triton",
        importer="megatron.core.transformer.moe.paged_stash",
        lines=Lines("0.18", "0.18"),
        reason=_REASON,
        link=_CORE.format("core_v0.18.2") + "paged_stash.py",
    ),
    StandIn(
        module="triton",
        importer="megatron.core.transformer.moe.ops.paged_stash",
        lines=Lines("0.19"),
        reason=_REASON,
        link=_CORE.format("core_v0.19.2") + "ops/paged_stash.py",
    ),
)


def install(rows: Sequence[StandIn], line: str) -> list[str]:
    """Prepare stand-ins for the modules that are missing and that `line` imports.

    Called before megatron-core is imported; a second call changes nothing. Returns a line for each
    row that is in force.
    """
    done = []
    for row in rows:
        if line in row.lines and importlib.util.find_spec(row.module) is None:
            if not any(
                isinstance(finder, _Finder) and finder.row == row for finder in sys.meta_path
            ):
                sys.meta_path.insert(0, _Finder(row))
            done.append(f"{row.importer}: {row.reason}")
    return done


class _Finder(ModuleFinder):
    """The hook on the module row.importer, whose code sees the stand-in."""

    def __init__(self, row: StandIn) -> None:
        super().__init__(row.importer, self._execute)
        self.row = row

    def _execute(self, module: ModuleType, run: Callable[[ModuleType], None]) -> None:
        # An import statement calls the __import__ of its globals' __builtins__. A dictionary there
        # changes this module alone; a change of the builtins module would reach every module.
        importer = _importer(self.row.module)
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": importer}
        run(module)


def _importer(missing: str) -> Callable[..., object]:
    stand_in = _Missing(missing)

    def import_or_stand_in(name: str, *arguments: Any, **options: Any) -> object:
        if name.partition(".")[0] == missing:
            return stand_in
        return builtins.__import__(name, *arguments, **options)

    return import_or_stand_in


class _Missing:
    """Stands for any attribute, and for any decorated function, of a module that is missing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> "_Missing":
        return _Missing(f"{self._name}.{name}")

    def __call__(self, *arguments: object, **_: object) -> "_Missing":
        # As a decorator: the function it gives cannot run, so that its name is enough.
        function = getattr(arguments[0], "__name__", "") if arguments else ""
        return _Missing(f"{self._name}({function})")

    def __getitem__(self, grid: object) -> object:
        raise PlatformError(
            f"{self._name}[...] was launched, a kernel that needs a module which is not installed. "
            f"Run: {sys.executable} -m pip install {self._name.partition('.')[0]}"
        )
