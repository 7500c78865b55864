"""Figures of the house that tools/check_house.py reports and holds: rooms, cycles, annotations.

A room is a folder directly under a package. A figure is a count over the package's `src`.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

MANY_PARAMETERS = 8
TOP = "(top)"  # files that lie in no room
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """One file of a package."""

    path: Path
    name: str
    """Dotted, as it is imported; a folder's `__init__.py` keeps that last part."""

    @cached_property
    def text(self) -> str:
        """The source."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        """Lines of the file, empty ones included."""
        return self.text.count("\n")


class Package:
    """All modules of one package's src, and what is counted over them."""

    def __init__(self, source: Path):
        """source: the folder of the package, such as packages/ml-data/src/ml_data."""
        self.name = source.name
        self.modules = [
            Module(path, ".".join((*path.parent.relative_to(source.parent).parts, path.stem)))
            for path in sorted(source.rglob("*.py"))
        ]
        self._names = {module.name for module in self.modules}

    @property
    def lines(self) -> int:
        """Lines of all files."""
        return sum(module.lines for module in self.modules)

    def rooms(self) -> dict[str, int]:
        """Lines of each folder under the package, sub-folders included, largest first."""
        rooms: dict[str, int] = defaultdict(int)
        for module in self.modules:
            parts = module.name.split(".")
            rooms[parts[1] if len(parts) > 2 else TOP] += module.lines
        return dict(sorted(rooms.items(), key=lambda room: -room[1]))

    def cycles(self) -> list[str]:
        """Import cycles between the entries of one folder of the package, at any depth.

        Two modules in different folders meet below their nearest common folder: the import is an
        arrow between the two entries of that folder which hold them.
        """
        arrows: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for module in self.modules:
            for target in self._imported(module):
                here, there = module.name.split("."), target.split(".")
                depth = next(
                    (
                        k
                        for k, pair in enumerate(zip(here, there, strict=False))
                        if pair[0] != pair[1]
                    ),
                    0,
                )
                if depth:
                    arrows[".".join(here[:depth])][here[depth]].add(there[depth])
        return [
            f"{folder}: {', '.join(sorted(group))}"
            for folder, graph in sorted(arrows.items())
            for group in cyclic_groups(graph)
        ]

    def any_share(self) -> tuple[int, int]:
        """Annotations that hold `Any`, and all annotations."""
        annotations = [
            ast.unparse(a) for module in self.modules for a in annotations_of(module.tree)
        ]
        return sum("Any" in text for text in annotations), len(annotations)

    def crowded_functions(self) -> list[str]:
        """Functions with MANY_PARAMETERS or more parameters, `self` not counted."""
        return [
            f"{module.name}.{node.name}"
            for module in self.modules
            for node in ast.walk(module.tree)
            if isinstance(node, FUNCTIONS) and len(parameters_of(node)) >= MANY_PARAMETERS
        ]

    def late_imports(self) -> list[str]:
        """Imports inside functions, as module:line."""
        return [
            f"{module.name}:{inner.lineno}"
            for module in self.modules
            for node in ast.walk(module.tree)
            if isinstance(node, FUNCTIONS)
            for inner in own_nodes(node)
            if isinstance(inner, (ast.Import, ast.ImportFrom))
        ]

    def comments(self) -> int:
        """Lines that hold a comment."""
        return sum(
            token.type == tokenize.COMMENT
            for module in self.modules
            for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        )

    def _imported(self, module: Module) -> Iterator[str]:
        """Names of the package's modules that `module` imports anywhere."""
        for node in ast.walk(module.tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                # `from package.module import name`: the name is no module.
                names = [n if self._resolve(n) else str(node.module) for n in names]
            for name in names:
                target = self._resolve(name)
                if target and target != module.name:
                    yield target

    def _resolve(self, name: str) -> str | None:
        if name in self._names:
            return name
        return f"{name}.__init__" if f"{name}.__init__" in self._names else None


def figures_of(package: Package) -> dict[str, int]:
    """The figures that may only fall. A share is in percent, rounded up."""
    with_any, annotations = package.any_share()
    rooms = [lines for room, lines in package.rooms().items() if room != TOP]
    return {
        "largest room, percent of lines": -(-100 * max(rooms) // package.lines),
        "annotations with Any, percent": -(-100 * with_any // annotations),
        "functions of many parameters": len(package.crowded_functions()),
        "imports inside functions": len(package.late_imports()),
        "import cycles between folders": len(package.cycles()),
    }


def cyclic_groups(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that reach each other: strongly connected, more than one node."""
    reach = {node: reachable(graph, node) for node in graph}
    groups: list[set[str]] = []
    for node in graph:
        group = {other for other in reach[node] if node in reach.get(other, ())} | {node}
        if len(group) > 1 and group not in groups:
            groups.append(group)
    return groups


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Nodes at the end of a path that begins at `start`."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in graph.get(waiting.pop(), ()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """All parameters by name, `self` and `cls` left out."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument for argument in named if argument.arg not in ("self", "cls")]


def annotations_of(tree: ast.AST) -> Iterator[ast.expr]:
    """Annotations of parameters, results, fields and variables."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            rest = [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
            named = [argument.annotation for argument in [*parameters_of(node), *rest]]
            yield from (a for a in [*named, node.returns] if a is not None)
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Nodes inside a function, less those of functions inside it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, FUNCTIONS):
            yield from own_nodes(child)
