"""A process that builds sample indexes: python -m ml_train.data.index_job CACHE < PIECES.

The process takes no part in the job. megatron-core therefore builds here whatever rank the caller
has, and no barrier of the training job is open meanwhile.
"""

import sys
from pathlib import Path

from ml_models.platforms import make_core_importable


def main() -> int:
    """Read pieces from stdin, build what the cache lacks, return 0."""
    make_core_importable()
    # Imported here: it imports megatron-core, which needs the line above.
    from ml_train.data.index_cache import build_pieces, from_json

    build_pieces(from_json(sys.stdin.read()), Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
