"""Eager or compiled: element-wise work is in plain functions, which torch.compile can fuse.

Eager is the default and right everywhere. Compiled, a function is compiled once per process for all
sizes (about 10 seconds each on a CPU, at first use); matrix products are the same calls either way.
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
    """`function`, or its compiled form."""
    return _compiled(function) if compiled else function  # type: ignore[return-value]


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Dynamic sizes: tokens per expert differ in every step, and each size would compile anew.
    return torch.compile(function, dynamic=True)


def set_execution(model: torch.nn.Module, execution: Execution) -> None:
    """Choose for every layer of `model`; ConfigError where nothing can compile."""
    if execution not in get_args(Execution):
        raise ConfigError(f"execution is {execution!r}; it must be eager or compiled.")
    if execution == "compiled":
        _require_compiler(next(model.parameters()).device)
    for module in model.modules():
        if hasattr(module, "use_compiled"):
            setattr(module, "use_compiled", execution == "compiled")  # noqa: B010 - no Tensor


def _require_compiler(device: torch.device) -> None:
    if device.type != "cpu":
        return  # Elsewhere torch.compile makes kernels by triton, without a C++ compiler.
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(shutil.which(name) for name in wanted):
        raise ConfigError(
            f"execution is compiled, and torch.compile needs a C++ compiler on a CPU, but "
            f"{' and '.join(wanted)} cannot be found; install one, name it in CXX, or choose eager."
        )
