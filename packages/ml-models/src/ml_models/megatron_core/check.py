"""Whether a megatron-core that is newer than all tested lines has what a package uses of it.

The uses are read from the package's own source: each name imported from megatron-core, and each
call of such a name with its number of positional arguments and its keywords. Every name must be
there, and every call must fit the signature that is there. So the check cannot fall behind the
code. It says nothing about numbers.

It reads about a hundred files and takes a second, so it runs on unknown lines only.
"""

import ast
import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ml_models import terminal
from ml_models.errors import MlModelsError, RequirementError
from ml_models.megatron_core import lines

SHOWN_FAULTS = 3

# Methods that are called on megatron-core's objects, whose class the source does not name.
METHODS = (
    "megatron.core.distributed:DistributedDataParallel.no_sync",
    "megatron.core.distributed:DistributedDataParallel.start_param_sync",
    "megatron.core.distributed:DistributedDataParallel.zero_grad_buffer",
    "megatron.core.optimizer.distrib_optimizer:DistributedOptimizer.sharded_state_dict",
    "megatron.core.optimizer.distrib_optimizer:"
    "DistributedOptimizer.load_parameter_state_from_fully_reshardable",
    "megatron.core.optimizer.optimizer:MegatronOptimizer.get_grad_norm",
    "megatron.core.optimizer.optimizer:MegatronOptimizer.prepare_grads",
    "megatron.core.optimizer.optimizer:MegatronOptimizer.reload_model_params",
    "megatron.core.optimizer.optimizer:MegatronOptimizer.scale_loss",
    "megatron.core.optimizer.optimizer:MegatronOptimizer.step",
    "megatron.core.optimizer.optimizer:MegatronOptimizer.zero_grad",
    "megatron.core.transformer.attention:SelfAttention.get_query_key_value_tensors",
)


class Call(NamedTuple):
    """The arguments of a call, as the source has them."""

    num_positional: int
    keywords: tuple[str, ...]
    complete: bool
    """False where the call has *arguments or **keywords, whose number the source does not show."""


@dataclass(frozen=True)
class Use:
    """An import or a call in a source file."""

    target: str
    """module:name.attribute"""
    where: str
    """file:line"""
    call: Call | None = None
    """None for an import."""


@functools.cache
def check_unknown_line(*packages: str, configure: Callable[[], object]) -> None:
    """On a line that no test has run on: RequirementError if `packages` cannot work, or a warning.

    configure: makes a TransformerConfig, whose settings the source does not show to be keywords.
    Called after the platform was applied, because it imports megatron-core. A process checks once.
    """
    if lines.is_supported(lines.installed_line()):
        return
    version, command = lines.installed_version(), lines.install_command()
    names = " and ".join(packages)
    faults = [fault for package in packages for fault in faults_of(package)]
    if faults := list(dict.fromkeys([*_fault_of_configuration(configure), *faults])):
        more = f", and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise RequirementError(
            f"megatron-core {version} is newer than all lines that this release of {names} was "
            f"tested on, and differs in what is used of it: {'; '.join(faults[:SHOWN_FAULTS])}"
            f"{more}. Run: {command}"
        )
    if os.environ.get("RANK", "0") == "0":
        terminal.warning(
            f"megatron-core {version} is newer than the lines that this release of {names} was "
            "tested on. It has every name that is used, with fitting arguments; its numbers were "
            f"not compared. For a tested release run: {command}"
        )


def faults_of(package: str) -> list[str]:
    """What `package` uses of megatron-core and does not find in the installed one."""
    faults = [text for use in uses_of(package) if (text := _fault(use))]
    faults += [
        text for target in METHODS if (text := _fault(Use(target, "megatron_core/check.py")))
    ]
    return faults


def uses_of(package: str) -> list[Use]:
    """Every import from megatron-core in a package's source, and every call of what it imports."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    root = Path(next(iter(spec.submodule_search_locations)))
    uses: list[Use] = []
    for path in sorted(root.rglob("*.py")):
        reader = _Reader(f"{package}/{path.relative_to(root).as_posix()}")
        nodes = list(_reached(ast.parse(path.read_text(encoding="utf-8"))))
        for node in nodes:  # imports first: a function may import after others call
            reader.read_import(node)
        for node in nodes:
            reader.read_call(node)
        uses += reader.uses
    return uses


def _reached(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes, without the branches that are for other lines."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_for_other_lines(child.test):
            for other in child.orelse:
                yield from _reached(other)
        else:
            yield from _reached(child)


def _is_for_other_lines(test: ast.expr) -> bool:
    """Whether a condition is `_here(first=..., last=...)`, or an `or` of it, and does not hold."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return all(_is_for_other_lines(value) for value in test.values)
    if not (isinstance(test, ast.Call) and getattr(test.func, "id", "") == "_here"):
        return False
    ends = {item.arg: ast.literal_eval(item.value) for item in test.keywords if item.arg}
    return lines.installed_line() not in lines.Lines(**ends)


@dataclass
class _Reader:
    """Collects the names that a file has from megatron-core, and their uses."""

    file: str
    targets: dict[str, str] = field(default_factory=dict)
    """Name in the file -> module:name, or module: for a module."""
    uses: list[Use] = field(default_factory=list)

    def read_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("megatron."):
            for alias in node.names:
                target = f"{node.module}:{alias.name}"
                self.targets[alias.asname or alias.name] = target
                self.uses.append(Use(target, f"{self.file}:{node.lineno}"))

    def read_call(self, node: ast.AST) -> None:
        if not isinstance(node, ast.Call) or (target := self._target(node.func)) is None:
            return
        positional = [item for item in node.args if not isinstance(item, ast.Starred)]
        keywords = tuple(item.arg for item in node.keywords if item.arg is not None)
        complete = len(positional) == len(node.args) and len(keywords) == len(node.keywords)
        call = Call(len(positional), keywords, complete)
        self.uses.append(Use(target, f"{self.file}:{node.lineno}", call))

    def _target(self, function: ast.expr) -> str | None:
        if isinstance(function, ast.Name):
            return self.targets.get(function.id)
        if isinstance(function, ast.Attribute):
            owner = self._target(function.value)
            return None if owner is None else f"{owner}.{function.attr}"
        return None


def _fault(use: Use) -> str | None:
    name = use.target.replace(":", ".")
    try:
        resolved = _resolve(use.target)
    except (ImportError, AttributeError):
        return f"no {name} ({use.where})"
    if use.call is None or not callable(resolved):
        return None
    try:
        signature = inspect.signature(resolved)
    except (TypeError, ValueError):  # a compiled function tells no signature
        return None
    bind = signature.bind if use.call.complete else signature.bind_partial
    try:
        bind(*[None] * use.call.num_positional, **dict.fromkeys(use.call.keywords))
    except TypeError as error:
        return f"{name}: {error} ({use.where})"
    return None


def _resolve(target: str) -> object:
    """The object that a target names. A name behind the colon may be a module, not imported yet."""
    module, _, path = target.partition(":")
    resolved: object = importlib.import_module(module)
    for name in path.split("."):
        try:
            resolved = getattr(resolved, name)
        except AttributeError:
            resolved = importlib.import_module(f"{module}.{name}")
    return resolved


def _fault_of_configuration(configure: Callable[[], object]) -> Iterator[str]:
    """Whether TransformerConfig takes the settings that `configure` gives it."""
    try:
        configure()
    except (TypeError, ValueError, MlModelsError) as error:
        yield f"TransformerConfig: {error}"
