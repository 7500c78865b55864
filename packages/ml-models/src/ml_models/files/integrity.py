"""Integrity of a checkpoint folder: sizes and checksums of its files, and the mark of a whole one.

```
FOLDER/.metadata __0_0.distcp ...   torch distributed checkpoint, one key per parameter
FOLDER/metadata.json common.pt      what megatron-core adds
FOLDER/model_config.json            ModelConfig.to_dict()
FOLDER/integrity.json               {"version": 1, "files": {NAME: {"size": N, "sha256": HEX}}}
FOLDER/COMPLETE                     written last: sha256 of integrity.json
```
Sizes are always compared, which takes microseconds; checksums on request, which reads every byte.
"""

import hashlib
import json
from pathlib import Path

from ml_models.files.durable import write_durably
from ml_models.files.hashes import sha256_of

INTEGRITY = "integrity.json"
COMPLETE = "COMPLETE"
# Of a conversion. It is removed after the folder has its final name, so that a folder whose process
# died in between is whole with it.
JOURNAL = "journal.jsonl"
# Of a conversion, too: what every tensor of the folder is made of, with its checksum.
CONVERSION_REPORT = "conversion_report.json"
INTEGRITY_VERSION = 1


def _files(folder: Path) -> list[Path]:
    """Every file that integrity.json covers; nested folders included, in order of name."""
    own = {folder / INTEGRITY, folder / COMPLETE, folder / JOURNAL}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in own)


def write_integrity(folder: Path, known: dict[str, str] | None = None) -> None:
    """Write integrity.json over all files of `folder`, then COMPLETE.

    `known`: checksums that the caller has already computed, by name relative to the folder.
    """
    known = known or {}
    files = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        # A writer that hashed on the way saves a second reading of terabytes.
        checksum = known.get(name) or sha256_of(path)
        files[name] = {"size": path.stat().st_size, "sha256": checksum}
    text = json.dumps({"version": INTEGRITY_VERSION, "files": files}, indent=1) + "\n"
    write_durably(folder / INTEGRITY, text)
    write_durably(folder / COMPLETE, hashlib.sha256(text.encode()).hexdigest() + "\n")


def verify_integrity(folder: Path, checksums: bool = False) -> list[str]:
    """A sentence per fault: a file missing, added, of another size or, on request, content."""
    folder = Path(folder)
    if not (folder / COMPLETE).is_file():
        return [f"{folder}: no {COMPLETE}, so it was not finished."]
    try:
        text = (folder / INTEGRITY).read_text(encoding="utf-8")
        recorded = json.loads(text)
        files = {
            str(name): (int(entry["size"]), str(entry["sha256"]))
            for name, entry in recorded["files"].items()
        }
        version = recorded["version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{folder / INTEGRITY}: missing or damaged ({error})."]
    if version != INTEGRITY_VERSION:
        return [
            f"{folder / INTEGRITY}: version {version!r}; this release reads {INTEGRITY_VERSION}."
        ]
    if (folder / COMPLETE).read_text(encoding="utf-8").strip() != hashlib.sha256(
        text.encode()
    ).hexdigest():
        return [f"{folder / INTEGRITY}: changed after the folder was finished."]
    faults = []
    present = {path.relative_to(folder).as_posix() for path in _files(folder)}
    for name, (size, checksum) in sorted(files.items()):
        path = folder / name
        if name not in present:
            faults.append(f"{path}: missing.")
        elif path.stat().st_size != size:
            faults.append(f"{path}: {path.stat().st_size} bytes, {size} were written.")
        elif checksums and sha256_of(path) != checksum:
            faults.append(f"{path}: content differs from what was written.")
    faults += [f"{folder / name}: not part of it." for name in sorted(present - set(files))]
    return faults


def is_whole(folder: Path) -> bool:
    """True when the folder was finished and every file has its size."""
    return not verify_integrity(folder)
