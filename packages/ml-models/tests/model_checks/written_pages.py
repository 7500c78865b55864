"""The files of a page of docs, written out and installed: what pages are followed by."""

import os
import re
from pathlib import Path

FILE = re.compile(r"^`([\w/]+\.\w+)`\. .*?^```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)
POINT = re.compile(r'entry-points\."?(ml_models\.\w+)"?\]\n(.+)\n')


def write_files(document: Path, folder: Path) -> dict[str, str]:
    """Each code block that follows a paragraph beginning with a file's name; their texts."""
    files = dict(FILE.findall(document.read_text(encoding="utf-8")))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        if path.parent != folder and path.parent.name != "tests":
            (path.parent / "__init__.py").touch()
    return files


def install(folder: Path) -> None:
    """What pip leaves behind beside the package: a distribution with its entry point."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    group, line = POINT.findall(text)[0]
    name = re.findall(r'^name = "(.*)"', text, re.MULTILINE)[0]
    information = folder / f"{name.replace('-', '_')}-1.0.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: {name}\nVersion: 1.0.0\n")
    (information / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")


def python_path(folder: Path) -> str:
    """PYTHONPATH with the folder in front."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
