"""The model part of a checkpoint folder: configuration, integrity, and the mark of a whole one.

```
FOLDER/.metadata __0_0.distcp ...   torch distributed checkpoint, one key per parameter
FOLDER/metadata.json common.pt      what megatron-core adds
FOLDER/model_config.json            ModelConfig.to_dict()
FOLDER/integrity.json               {"version": 1, "files": {NAME: {"size": N, "sha256": HEX}}}
FOLDER/COMPLETE                     written last: sha256 of integrity.json
```
Sizes are compared always (microseconds), checksums on request (reads every byte).
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ml_models.config import ModelConfig
from ml_models.conversion.placeholders import placeholder
from ml_models.errors import ConfigError, WeightError

MODEL_CONFIG = "model_config.json"
INTEGRITY = "integrity.json"
COMPLETE = "COMPLETE"
JOURNAL = "journal.jsonl"  # of a conversion, removed last
INTEGRITY_VERSION = 1


def sha256_of(path: Path) -> str:
    """Checksum of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def write_durably(path: Path, text: str) -> None:
    """Write a small file so that it has its old or its new content, never a part."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_model_config(folder: Path, config: ModelConfig) -> None:
    """Put model_config.json into `folder`."""
    write_durably(folder / MODEL_CONFIG, json.dumps(config.to_dict(), indent=2) + "\n")


def read_model_config(folder: Path) -> ModelConfig:
    """The configuration that a checkpoint folder names."""
    from ml_models.registry import from_dict

    path = folder / MODEL_CONFIG
    if not path.is_file():
        raise WeightError(f"{folder}: no {MODEL_CONFIG}; name the model with --model or --config.")
    try:
        return from_dict(read_json(path))
    except ConfigError as error:
        # The folder is at fault, not the command that names it.
        raise WeightError(f"{path}: {error}") from error


def read_json(path: Path) -> Any:
    """A JSON file, or a WeightError in one sentence."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise WeightError(f"{path}: no such file.") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = None if isinstance(error, OSError) else placeholder(path)
        reason = reason or f"not a readable JSON file ({error})"
        raise WeightError(f"{path}: {reason}.") from error


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
        checksum = known.get(name) or sha256_of(path)
        files[name] = {"size": path.stat().st_size, "sha256": checksum}
    text = json.dumps({"version": INTEGRITY_VERSION, "files": files}, indent=1) + "\n"
    write_durably(folder / INTEGRITY, text)
    write_durably(folder / COMPLETE, hashlib.sha256(text.encode()).hexdigest() + "\n")


def verify_integrity(folder: Path, checksums: bool = False) -> list[str]:
    """One sentence per fault: a file missing, added, of another size or (asked) content."""
    folder = Path(folder)
    if not (folder / COMPLETE).is_file():
        return [f"{folder}: no {COMPLETE}, so it was not finished."]
    try:
        text = (folder / INTEGRITY).read_text(encoding="utf-8")
        recorded = json.loads(text)
        files = {
            str(name): (int(f["size"]), str(f["sha256"])) for name, f in recorded["files"].items()
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
