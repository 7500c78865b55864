"""`ml-data merge`: pairs, or the tasks of one run, into one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ml_data.errors import UsageError
from ml_data.terminal import notice, say

if TYPE_CHECKING:
    from ml_data.indexed.manifest import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("prefix", nargs="*", help="P of each P.bin and P.idx, in order")
    parser.add_argument("--output-prefix", help="prefix of the merged pair")
    parser.add_argument(
        "--tasks", metavar="P", help="the --output-prefix of a run with --num-tasks"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output of ml-data")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Merge the pairs, or the tasks, that the arguments name."""
    # Imported here for start-up time: it brings numpy.
    from ml_data.pipeline.combine import merge, merge_tasks

    if args.tasks:
        if args.prefix or args.output_prefix:
            raise UsageError("merge: --tasks P names inputs and output; leave the others away")
        made = merge_tasks(args.tasks, overwrite=args.overwrite, notice=notice)
    elif args.output_prefix:
        made = [merge(args.prefix, args.output_prefix, overwrite=args.overwrite, notice=notice)]
    else:
        raise UsageError("merge: give prefixes and --output-prefix, or --tasks P")
    show(made, Path(args.tasks or args.output_prefix).parent, args.json)
    return 0


def show(manifests: list[Manifest], folder: Path, as_json: bool) -> None:
    """Print a line per output. It begins with the prefix, as training takes it."""
    if as_json:
        say(json.dumps([manifest.to_json() for manifest in manifests], indent=2))
        return
    for manifest in manifests:
        name = str(folder / next(iter(manifest.files))).removesuffix(".bin")
        say(f"{name}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens")
