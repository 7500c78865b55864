"""Check the rules of the house that a linter does not know.

Sizes (a file over 600 lines, a function over 100), dependency direction between the packages,
`torch.cuda` outside platforms/, ASCII in code, one module per package that prints. `EXCEPTIONS`
may only shrink. The figures of tools/house_ratchets.json may only fall.

Usage: python tools/check_house.py [--report]

--report prints the figures of each package in place of the check.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

from house_figures import Package, figures_of

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 100
MAY_IMPORT = {
    "ml_data": {"ml_data"},
    "ml_models": {"ml_models"},
    "ml_train": {"ml_train", "ml_data", "ml_models"},
}
OURS = set(MAY_IMPORT)
# Limits of the figures of each package. A limit may fall and never rise.
RATCHETS = "tools/house_ratchets.json"
EXCEPTIONS: frozenset[str] = frozenset()


def imported_packages(tree: ast.AST) -> set[str]:
    """Top-level names of all modules imported in `tree`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def speaks(tree: ast.AST) -> list[int]:
    """Lines of `tree` that write to a terminal."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    writers = ("print", "sys.stdout.write", "sys.stderr.write")
    return [call.lineno for call in calls if ast.unparse(call.func) in writers]


def faults_of(path: Path, root: Path) -> list[str]:
    """One line per broken rule in the file `path`."""
    name = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    faults = []
    if text.count("\n") > MAX_FILE_LINES:
        faults.append(f"{text.count(chr(10))} lines, the limit is {MAX_FILE_LINES}")
    if not text.isascii():
        faults.append("holds a character that is not ASCII")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                faults.append(f"{node.name} has {length} lines, limit {MAX_FUNCTION_LINES}")
    package = next((part for part in path.parts if part in OURS), None)
    if "src" in path.parts and package:
        faults += faults_of_source(path, package, text, tree)
    return [f"{name}: {fault}" for fault in faults]


def faults_of_source(path: Path, package: str, text: str, tree: ast.AST) -> list[str]:
    """Broken rules that hold for a package's src alone."""
    faults = [
        f"{package} may not import {other}"
        for other in sorted((imported_packages(tree) & OURS) - MAY_IMPORT[package])
    ]
    if path.name != "terminal.py":
        faults += [f"line {line}: only terminal.py writes to a terminal" for line in speaks(tree)]
    if "platforms" not in path.parts and re.search(
        r"\btorch\.(cuda|npu|accelerator)\b[.(]|\bis_available\(", text
    ):
        faults.append("only ml_models/platforms asks torch which devices there are")
    return faults


def report(root: Path) -> None:
    """Print the figures of each package: what tools/house_figures.py counts."""
    for package in packages(root):
        with_any, annotations = package.any_share()
        print(f"{package.name}: {len(package.modules)} files, {package.lines} lines")
        for room, lines in package.rooms().items():
            print(f"  {room:<14} {lines:6} lines {100 * lines / package.lines:5.1f} %")
        print(f"  lines with a comment          {100 * package.comments() / package.lines:6.1f} %")
        print(f"  annotations with Any          {100 * with_any / annotations:6.1f} %")
        print(f"  functions of many parameters  {len(package.crowded_functions()):4}")
        print(f"  imports inside functions      {len(package.late_imports()):4}")
        print(f"  import cycles between folders {len(package.cycles()):4}")
        for cycle in package.cycles():
            print(f"    {cycle}")


def ratchet_faults(root: Path) -> list[str]:
    """One line per figure that is above its limit, or below it: the limit must follow."""
    limits = json.loads((root / RATCHETS).read_text(encoding="utf-8"))
    faults = []
    for package in packages(root):
        for name, figure in figures_of(package).items():
            limit = limits[package.name][name]
            if figure > limit:
                faults.append(f"{package.name}: {name} is {figure}, the limit is {limit}")
            elif figure < limit:
                faults.append(
                    f"{package.name}: {name} fell from {limit} to {figure}: lower it in {RATCHETS}"
                )
    return faults


def packages(root: Path) -> list[Package]:
    """The three packages, as tools/house_figures.py counts them."""
    return [
        Package(root / "packages" / name.replace("_", "-") / "src" / name) for name in sorted(OURS)
    ]


def main() -> int:
    """Return 0 when every rule holds, else 1 with a line per fault."""
    root = Path(__file__).parent.parent
    if sys.argv[1:] == ["--report"]:
        report(root)
        return 0
    files = [
        *root.glob("*.py"),
        *(
            path
            for top in ("packages", "tools", "examples", "benchmarks")
            for path in (root / top).rglob("*.py")
        ),
    ]
    faults = [fault for path in sorted(files) for fault in faults_of(path, root)]
    faults += ratchet_faults(root)
    unexpected = [fault for fault in faults if fault.split(":")[0] not in EXCEPTIONS]
    for fault in unexpected:
        print(f"house: {fault}", file=sys.stderr)
    print(f"{len(files)} files, {len(unexpected)} faults")
    return 1 if unexpected else 0


if __name__ == "__main__":
    raise SystemExit(main())
