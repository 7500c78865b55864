"""torchrun that ends with the job's own message: `ml-train-launch`, with torchrun's flags.

torchrun answers every failed job with a traceback of its own code, under which the one sentence
that says what was wrong is easily missed.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> int:
    """Run torchrun; the exit code is that of the first process that failed."""
    from torch.distributed import run

    try:
        run.main()
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        how = f"signal {-first.exitcode}" if first.exitcode < 0 else f"exit code {first.exitcode}"
        print(f"launch: rank {rank} failed first, with {how}", file=sys.stderr)
        return int(first.exitcode) if first.exitcode > 0 else 128 - int(first.exitcode)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
