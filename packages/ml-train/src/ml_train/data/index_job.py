"""A process that builds sample indexes: python -m ml_train.data.index_job CACHE < PIECES.

It is no part of the job, so megatron-core builds here whatever rank the caller has, and no
barrier of the training job is open meanwhile.
"""

import sys
from pathlib import Path

from ml_models.platforms import make_core_importable
from ml_train.data.pieces import build_pieces, from_json


def main() -> int:
    """Read pieces from stdin, build what the cache lacks, return 0."""
    make_core_importable()
    build_pieces(from_json(sys.stdin.read()), Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
