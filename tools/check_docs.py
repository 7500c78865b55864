"""Check that each relative link in the Markdown files of this repository leads somewhere.

Usage: python tools/check_docs.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND_PATH = re.compile(r"(?:bash|python) ((?:examples|tools|benchmarks)/[\w./-]+)")


def main() -> int:
    """Return 0 when every target exists, else 1 with a line per dead one."""
    root = Path(__file__).parent.parent
    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=root, capture_output=True, text=True, check=True
    )
    files = [root / name for name in tracked.stdout.split()]
    dead = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        for target in LINK.findall(text):
            if "://" not in target and not (file.parent / target).exists():
                dead.append(f"{file.relative_to(root)}: link to {target}")
        for target in COMMAND_PATH.findall(text):
            if not (root / target).exists():
                dead.append(f"{file.relative_to(root)}: command names {target}")
    for line in dead:
        print(f"docs: {line} leads nowhere", file=sys.stderr)
    print(f"{len(files)} documents, {len(dead)} dead ends")
    return 1 if dead else 0


if __name__ == "__main__":
    raise SystemExit(main())
