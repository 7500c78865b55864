"""The Grok-2 reference of two ranks, and what tests do to copies of it."""

import shutil
from pathlib import Path

DATA = Path(__file__).parent.parent / "data" / "grok2" / "g2_tp"
PRESHARDED, PLAIN = DATA / "presharded_tp2", DATA / "plain"


def file(kind: int, rank: str) -> str:
    """The name of a file of the release."""
    return f"pytorch_model-{kind:05d}-TP-{rank}.safetensors"


def copy_to(folder: Path) -> Path:
    """A copy of the presharded reference, which the test may damage."""
    shutil.copytree(PRESHARDED, folder)
    return folder


def exchange(folder: Path, first: str, second: str) -> None:
    """Exchange the names of two files."""
    (folder / first).rename(folder / "kept")
    (folder / second).rename(folder / first)
    (folder / "kept").rename(folder / second)
