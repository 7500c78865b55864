"""Run a tokenization in forked children that end without a word at their n-th durable step.

Usage: crash_driver.py INPUT TOKENIZER FOLDER. A step is an fsync, a rename, an unlink or a removal
of a folder; os._exit there leaves what kill -9 would leave. Prints the number of steps tried.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

CRASHED = 77


def crash_at(step: int) -> None:
    """End this process at its `step`-th durable step."""
    seen = 0

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == step:
                os._exit(CRASHED)
            return call(*args, **kwargs)

        return wrapped

    # Python 3.10's Path keeps its own references to os.replace and os.unlink.
    owner_of_rename: Any = Path if sys.version_info < (3, 11) else os
    calls = (
        (os, "fsync"),
        (owner_of_rename, "replace"),
        (owner_of_rename, "unlink"),
        (shutil, "rmtree"),
    )
    for owner, name in calls:
        setattr(owner, name, counting(getattr(owner, name)))


def run_child(options: TokenizeOptions, step: int) -> int:
    """Exit code of a forked run that crashes at `step` (0: never)."""
    child = os.fork()
    if child == 0:
        if step:
            crash_at(step)
        tokenize(options)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Crash at step 1, 2, ... until a run gets through; after each crash, a run goes on."""
    source, tokenizer, folder = sys.argv[1:4]
    step = 0
    while True:
        step += 1
        options = TokenizeOptions(
            input=(source,),
            tokenizer_name_or_path=tokenizer,
            output_prefix=str(Path(folder) / f"{step:03}" / "p"),
            workers=1 + step % 3,
            batch_bytes=2048,
            shard_bytes=8192,
            append_eod=True,
        )
        code = run_child(options, step)
        if code == 0:
            break
        if code != CRASHED:
            raise SystemExit(f"step {step}: exit code {code}")
        if run_child(options, 0) != 0:
            raise SystemExit(f"step {step}: the run after the crash failed")
    print(step)


if __name__ == "__main__":
    main()
