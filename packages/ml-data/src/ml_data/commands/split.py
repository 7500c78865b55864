"""`ml-data split`: one pair into several, cut at documents."""

from __future__ import annotations

import argparse
from pathlib import Path

from ml_data.commands.merge import show
from ml_data.errors import UsageError
from ml_data.terminal import notice

# Names of parts have five digits, so that they sort in their order.
_MOST_PARTS = 99_999


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("prefix", help="P of P.bin and P.idx")
    parser.add_argument("--output-prefix", required=True, help="Q of Q.part-00000-of-00002.bin ...")
    parser.add_argument("--parts", type=int, help="parts with as many tokens each")
    parser.add_argument(
        "--fractions", type=float, nargs="+", help="shares of the tokens, e.g. 98 2"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs of ml-data")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Split the pair that the arguments name."""
    # Imported here for start-up time: it brings numpy.
    from ml_data.pipeline.combine import split

    if (args.parts is None) == (args.fractions is None):
        raise UsageError("split: give either --parts N or --fractions")
    if args.parts is not None and not 1 <= args.parts <= _MOST_PARTS:
        raise UsageError(f"--parts {args.parts}: must be from 1 to {_MOST_PARTS:,}")
    fractions = args.fractions or [1.0] * args.parts
    made = split(
        args.prefix, args.output_prefix, fractions, overwrite=args.overwrite, notice=notice
    )
    show(made, Path(args.output_prefix).parent, args.json)
    return 0
