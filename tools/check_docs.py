"""Check that what the Markdown files of this repository name is there.

Checked are relative links and their headings, the scripts of commands, paths such as
`ml_train/training/trainer.py`, modules and names such as `ml_models.registry.get`, and tests by
name. A changelog tells of names that are gone, so that only its links are checked. Pages that the
code of packages and tools names are checked too.

Usage: python tools/check_docs.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)]*))?\)")
COMMAND_PATH = re.compile(r"(?:bash|python) ((?:examples|tools|benchmarks)/[\w./-]+)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")

SOURCE_PATH = re.compile(r"\bml_(?:data|models|train)(?:/[\w.]+)+")
DOTTED_NAME = re.compile(r"(?<![\w./-])ml_(?:data|models|train)(?:\.[A-Za-z_]\w*)+")
IMPORT = re.compile(r"^from (ml_(?:data|models|train)[\w.]*) import ([\w, ]+)$", re.MULTILINE)
FILE = re.compile(r"[\w./-]+\.(?:py|sh|md|toml)")
FOLDER = re.compile(r"(?:packages|docs|examples|tools|benchmarks|constraints|tests)/[\w./-]*\w/?")
TEST = re.compile(r"test_\w+")
PAGE = re.compile(r"\bdocs/[\w/-]+\.md\b")

FOREIGN = re.compile(
    # Files of a reader, and of the repositories of xAI, hpcai-tech, Megatron and CANN.
    r"(my_\w+|model|run|pretrain_gpt|configuration_grok1|modeling_grok1(_outputs)?)\.py"
    r"|pyproject\.toml|llama_lm/.+|toy_platform/.+|tests/test_patches\.py|set_env\.sh"
)


@dataclass(frozen=True)
class Tree:
    """The files of the repository."""

    root: Path
    names: tuple[str, ...]
    """Paths from the root."""

    @cached_property
    def ends(self) -> frozenset[str]:
        """Every end of every path, of files and of folders: a/b/c, b/c, c, a/b, b, a."""
        ends: set[str] = set()
        for name in self.names:
            parts = name.split("/")
            for stop in range(1, len(parts) + 1):
                ends.update("/".join(parts[start:stop]) for start in range(stop))
        return frozenset(ends)

    @cached_property
    def tests(self) -> frozenset[str]:
        """Names of the test functions."""
        files = (name for name in self.names if re.search(r"/test_\w+\.py$", name))
        texts = ((self.root / name).read_text(encoding="utf-8") for name in files)
        return frozenset(name for text in texts for name in re.findall(r"def (test_\w+)", text))

    @cached_property
    def sources(self) -> str:
        """All code of the packages."""
        files = [name for name in self.names if "/src/" in name and name.endswith(".py")]
        return "\n".join((self.root / name).read_text(encoding="utf-8") for name in files)

    def module(self, dotted: str) -> Path | None:
        """The file of a module or package."""
        package = dotted.split(".")[0].replace("_", "-")
        path = self.root / "packages" / package / "src" / dotted.replace(".", "/")
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
        return None


def has_name(tree: Tree, dotted: str) -> bool:
    """Whether a dotted name is a module, a name in a module, or a group of entry points."""
    if f'"{dotted}"' in tree.sources:
        return True
    parts = dotted.split(".")
    for stop in range(len(parts), 0, -1):
        file = tree.module(".".join(parts[:stop]))
        if file is not None:
            text = file.read_text(encoding="utf-8")
            return stop == len(parts) or re.search(rf"\b{parts[stop]}\b", text) is not None
    return False


def headings(path: Path) -> set[str]:
    """Anchors that GitHub makes of the headings of a page."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in plain}


def dead_links(page: Path, text: str) -> Iterator[str]:
    """Links of `page` that lead nowhere."""
    for target, anchor in LINK.findall(text):
        if "://" in target or not (target or anchor):
            continue
        path = page.parent / target if target else page
        if not path.exists():
            yield f"link to {target}"
        elif anchor and anchor not in headings(path):
            yield f"link to {target}#{anchor}"


def dead_names(tree: Tree, text: str) -> Iterator[str]:
    """Files, modules, names and tests in `text` that are not in the repository."""
    for target in COMMAND_PATH.findall(text):
        if not (tree.root / target).exists():
            yield f"command names {target}"
    for path in SOURCE_PATH.findall(text):
        if path.rstrip(".") not in tree.ends:
            yield f"path {path}"
    imported = [
        f"{module}.{name.strip()}"
        for module, names in IMPORT.findall(text)
        for name in names.split(",")
    ]
    for dotted in (*DOTTED_NAME.findall(text), *imported):
        if not has_name(tree, dotted):
            yield f"name {dotted}"
    for span in SPAN.findall(FENCE.sub("", text)):
        name = span.split("::")[0].rstrip("/")
        is_path = FILE.fullmatch(name) or FOLDER.fullmatch(name)
        if is_path and not FOREIGN.fullmatch(name) and name.removeprefix("./") not in tree.ends:
            yield f"path {span}"
        if TEST.fullmatch(span) and span not in tree.tests:
            yield f"test {span}"


def faults_of(tree: Tree, page: Path) -> list[str]:
    """What `page` names and the repository does not have."""
    text = page.read_text(encoding="utf-8")
    faults = list(dead_links(page, text))
    if page.name != "CHANGELOG.md":
        faults += dead_names(tree, text)
    return [f"{page.relative_to(tree.root)}: {fault}" for fault in dict.fromkeys(faults)]


def dead_pages(tree: Tree) -> list[str]:
    """Pages that code names and the repository does not have."""
    files = [name for name in tree.names if re.search(r"(/src/|^tools/).*\.(py|sh)$", name)]
    return [
        f"{name}: page {page}"
        for name in files
        for page in PAGE.findall((tree.root / name).read_text(encoding="utf-8"))
        if page not in tree.names
    ]


def tree_of(root: Path) -> Tree:
    """All files that git tracks, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.splitlines() if (root / name).exists()]
    return Tree(root, tuple(names))


def main() -> int:
    """Return 0 when everything that is named exists, else 1 with a line per fault."""
    tree = tree_of(Path(__file__).parent.parent)
    pages = [tree.root / name for name in tree.names if name.endswith(".md")]
    faults = [fault for page in pages for fault in faults_of(tree, page)] + dead_pages(tree)
    for fault in faults:
        print(f"docs: {fault} leads nowhere", file=sys.stderr)
    print(f"{len(pages)} documents, {len(faults)} dead ends")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
