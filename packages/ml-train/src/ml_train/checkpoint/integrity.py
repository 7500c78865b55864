"""Stand-in until ml_models.conversion lands: integrity.json and the COMPLETE marker."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_train.checkpoint import disk

INTEGRITY, COMPLETE = "integrity.json", "COMPLETE"


def write_integrity(folder: Path, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Sizes and sha256 of all files, then the marker. `known` files are not read again."""
    known = dict(known or {})
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name not in (INTEGRITY, COMPLETE):
            files[path.name] = known.get(path.name) or {
                "size": path.stat().st_size,
                "sha256": _sha256(path),
            }
    disk.write(folder / INTEGRITY, json.dumps({"format": 1, "files": files}, indent=1).encode())
    disk.write(folder / COMPLETE, b"")


def is_whole(folder: Path) -> bool:
    """The marker is there."""
    return (folder / COMPLETE).is_file()


def faults(folder: Path, *, checksums: bool, part: int = 0, parts: int = 1) -> list[str]:
    """What is wrong with this part of the files; empty if nothing is."""
    if not is_whole(folder):
        return [f"it has no {COMPLETE} marker: writing it was never finished"]
    try:
        files = json.loads((folder / INTEGRITY).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{INTEGRITY} cannot be read: {error}"]
    found = []
    for number, name in enumerate(sorted(files)):
        if number % parts != part:
            continue
        path, wanted = folder / name, files[name]
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != wanted["size"]:
            found.append(f"{name} has {path.stat().st_size} bytes instead of {wanted['size']}")
        elif checksums and _sha256(path) != wanted["sha256"]:
            found.append(f"{name} has another checksum than when it was written")
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
