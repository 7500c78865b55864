"""torch.compile of megatron-core's fused functions waits until a function is called.

megatron-core decorates its fused functions with torch.compile as it is imported. The first such
call imports TorchDynamo and TorchInductor, which takes 1.7 of the 4.2 seconds of CPU time that a
process needs to start (torch 2.13, megatron-core 0.16.1), in every process of a run. Most runs call
none of these functions: a layer of ours has its own kernels.

A module of ROWS is executed with a torch.compile that keeps the function and compiles it when it is
called first. What is computed is the same. torch.compile itself is put back after the import.
"""

import functools
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from ml_models.megatron_core.import_hook import ModuleFinder

ROWS = (
    # Binds torch.compile as `jit_fuser`, with which the other modules decorate.
    "megatron.core.jit",
    # Decorates a method of the inference router with torch.compile, from 0.18 on.
    "megatron.core.transformer.moe.router",
)


def install() -> None:
    """Have the modules of ROWS imported so; has no effect on those that are imported already."""
    if not any(isinstance(finder, _DeferringFinder) for finder in sys.meta_path):
        sys.meta_path[:0] = [_DeferringFinder(name, _execute) for name in ROWS]


def deferring(compile_now: Callable[..., Any]) -> Callable[..., Any]:
    """A function like `compile_now` (torch.compile) that compiles a plain function when called."""

    def compile_later(function: Any = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(compile_later, **options)
        if not isinstance(function, FunctionType):
            return compile_now(function, **options)

        @functools.cache
        def compiled() -> Any:
            return compile_now(function, **options)

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return compiled()(*arguments, **named)

        return call

    return compile_later


def _execute(module: ModuleType, run: Callable[[ModuleType], None]) -> None:
    """Execute a module of ROWS while torch.compile defers."""
    import torch  # the module that is executed imports it anyway

    compile_now = torch.compile
    torch.compile = deferring(compile_now)
    try:
        run(module)
    finally:
        torch.compile = compile_now


class _DeferringFinder(ModuleFinder):
    """The hook on one module of ROWS; `install` knows it by its class."""
