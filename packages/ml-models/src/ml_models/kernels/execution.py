"""Eager or compiled: element-wise work is in plain functions, which torch.compile can fuse.

Eager is the default and works everywhere. A compiled function is compiled once per process, at its
first use, for all sizes; on a CPU this takes about 10 seconds per function. Matrix products are the
same calls in both cases.
"""

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, get_args

import torch

from ml_models.errors import ConfigError

Execution = Literal["eager", "compiled"]
Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function, compiled: bool) -> Function:
    """`function` itself, or with `compiled` its compiled form."""
    return _compiled(function) if compiled else function  # type: ignore[return-value]


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Dynamic sizes: tokens per expert differ in every step, and each size would compile anew.
    return torch.compile(function, dynamic=True)


def set_execution(model: torch.nn.Module, execution: Execution) -> None:
    """Make every layer of `model` eager or compiled; ConfigError where nothing can compile."""
    if execution not in get_args(Execution):
        raise ConfigError(f"execution is {execution!r}; it must be eager or compiled.")
    if execution == "compiled":
        _require_torch_compile()
        _require_compiler(next(model.parameters()).device)
    for module in model.modules():
        if hasattr(module, "use_compiled"):
            setattr(module, "use_compiled", execution == "compiled")  # noqa: B010 - no Tensor


def _require_torch_compile() -> None:
    # MindSpeed's adaptor puts a function that compiles nothing in place of torch.compile.
    owner = getattr(torch.compile, "__module__", None)
    if owner != "torch":
        raise ConfigError(
            f"execution is compiled, but {owner} has replaced torch.compile in this process, as "
            "MindSpeed's adaptor does, and every function would run eagerly; choose eager."
        )


def _require_compiler(device: torch.device) -> None:
    if device.type != "cpu":
        return  # Elsewhere torch.compile makes kernels by triton, without a C++ compiler.
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(shutil.which(name) for name in wanted):
        raise ConfigError(
            f"execution is compiled, and torch.compile needs a C++ compiler on a CPU, but "
            f"{' and '.join(wanted)} cannot be found; install one, name it in CXX, or choose eager."
        )
