"""A process of its own that builds sample indexes: python -m ml_train.data.index_job CACHE < SPEC.

It is no part of the job, so megatron-core builds here whatever rank the caller has, and no
barrier of the training job is open meanwhile. The indexes are built in a folder beside their
final names and moved; the stamp, which holds each file's SHA-256, is written last.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from ml_train.data.spec import IndexSpec, build_datasets


def stamp_path(spec: IndexSpec, cache: Path) -> Path:
    """The file that says that all indexes of the spec are there."""
    return cache / f"{spec.name()}.ready.json"


def read_stamp(spec: IndexSpec, cache: Path) -> dict[str, str] | None:
    """File name -> SHA-256 of a spec's indexes; None unless all are there in full size."""
    try:
        stamp = json.loads(stamp_path(spec, cache).read_text(encoding="utf-8"))
        whole = all((cache / n).stat().st_size == f["bytes"] for n, f in stamp["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return {name: file["sha256"] for name, file in stamp["files"].items()} if whole else None


def build_indexes(spec: IndexSpec, cache: Path) -> None:
    """Build the indexes of spec in cache. Needs a process group of size 1, or none."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=cache) as scratch:
        build_datasets(spec, Path(scratch))
        files = {}
        for path in sorted(Path(scratch).iterdir()):
            data = path.read_bytes()
            files[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            _sync(path)
            os.replace(path, cache / path.name)
    stamp = stamp_path(spec, cache)
    temporary = stamp.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"spec": json.loads(spec.to_json()), "files": files}, indent=1))
    _sync(temporary)
    os.replace(temporary, stamp)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def main() -> int:
    """Read a spec from stdin, build, return 0."""
    build_indexes(IndexSpec.from_json(sys.stdin.read()), Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
