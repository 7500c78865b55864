"""`ml-data tokenize`: parquet or JSON lines to .bin/.idx."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_origin, get_type_hints

from ml_data.pipeline.options import TokenizeOptions, flag_of, flags
from ml_data.terminal import ProgressLine, notice, say

if TYPE_CHECKING:
    from ml_data.indexed.manifest import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command, with Megatron's names where Megatron has them."""
    types = get_type_hints(TokenizeOptions)
    for option in fields(TokenizeOptions):
        if option.name == "overwrite":  # --help lists --dry-run before it
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="say what would be read, how long it takes and how large it gets",
            )
        _add_option(parser, option, types[option.name])
    parser.add_argument("--json", action="store_true", help="print the manifests as JSON")


def _add_option(parser: argparse.ArgumentParser, option: Field[object], kind: object) -> None:
    """Add the flag of a field whose annotation is `kind`."""
    shown = flags()[option.name]
    names = [flag_of(option.name)]
    if "second_name" in shown:
        names.append(shown["second_name"])
    if kind is bool:
        parser.add_argument(*names, action="store_true", help=shown["help"])
        return
    added = parser.add_argument(
        *names,
        nargs="+" if get_origin(kind) is tuple else None,
        required=option.default is MISSING,
        default=None if option.default is MISSING else option.default,
        choices=shown.get("choices"),
        metavar=shown.get("metavar"),
        help=shown["help"],
    )
    if kind is int or int in get_args(kind):
        added.type = int


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    options = TokenizeOptions(
        **{option.name: getattr(args, option.name) for option in fields(TokenizeOptions)}
    )
    if args.dry_run:
        return _dry_run(options, as_json=args.json)
    # Imported here for start-up time: the pipeline brings pyarrow and the tokenizers.
    from ml_data.pipeline.run import tokenize

    progress = ProgressLine(sys.stderr)
    try:
        manifests = tokenize(options, on_progress=progress.show, on_notice=notice)
    finally:
        progress.end()
    if args.json:
        say(json.dumps([manifest.to_json() for manifest in manifests], indent=2))
        return 0
    for manifest in manifests:
        say(summary(manifest, Path(options.output_prefix).parent))
    return 0


def _dry_run(options: TokenizeOptions, *, as_json: bool) -> int:
    # Imported here for the reason given in `run`.
    from ml_data.pipeline.estimate import estimate, explain

    estimated = estimate(options, notice)
    say(json.dumps(estimated, indent=2) if as_json else explain(estimated))
    return 0


def summary(manifest: Manifest, folder: Path) -> str:
    """One line about an output. It begins with the prefix, as training takes it."""
    name = str(folder / next(iter(manifest.files))).removesuffix(".bin")
    empty, dropped = "", ""
    # A finished output of an earlier run may have lost its ledger to another program.
    if (ledger := manifest.ledger) is not None:
        reasons = [f"{count} {reason}" for reason, count in ledger.documents_dropped.items()]
        why = ", ".join(reasons)
        for quarantine in [file for file in manifest.files if file.endswith(".quarantine.jsonl")]:
            why += f"; kept in {quarantine}"
        empty = f" ({ledger.documents_empty} empty)"
        dropped = f", dropped {ledger.num_dropped}{f' ({why})' if why else ''}"
    seconds = (manifest.run or {}).get("seconds")
    took = f", {seconds:.1f} s" if isinstance(seconds, (int, float)) else ""
    return (
        f"{name}: {manifest.num_documents:,} documents{empty}, {manifest.num_tokens:,} tokens "
        f"({manifest.dtype}){dropped}{took}"
    )
