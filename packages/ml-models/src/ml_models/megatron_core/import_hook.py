"""A hook on the import of one module of megatron-core: something stands around its execution."""

from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

Execute = Callable[[ModuleType, Callable[[ModuleType], None]], None]
"""Takes the new module and the function that executes its code, and must call the latter."""


class ModuleFinder(MetaPathFinder):
    """Finds the module `name` where Python would, and has `execute` run its code."""

    def __init__(self, name: str, execute: Execute) -> None:
        self._name, self._execute = name, execute

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _HookedLoader(spec.loader, self._execute)
        return spec


class _HookedLoader(Loader):
    """Makes a module by another loader and leaves its execution to `execute`."""

    def __init__(self, loader: Loader, execute: Execute) -> None:
        self._loader, self._execute = loader, execute

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._execute(module, self._loader.exec_module)
