"""ml-models convert: weights between Hugging Face, xAI's releases and Megatron, with an audit."""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_models import registry, terminal

DTYPE_NAMES = ("bf16", "fp32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--from",
        dest="source_format",
        required=True,
        choices=registry.formats(),
        help="xai: Grok-1's release; presharded: Grok-2's; megatron: a distributed checkpoint, or "
        "one with a file per rank (mp_rank_* folders)",
    )
    parser.add_argument("--to", dest="target_format", required=True, choices=registry.formats())
    parser.add_argument("--input", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", help="a model's name, see ml-models list")
    which.add_argument("--config", type=Path, help="a configuration file: ours, HF's or xAI's")
    parser.add_argument(
        "--variant", choices=registry.variants(), help="what the input's files do not say"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPE_NAMES,
        help="of the result; default: the input's; not with --to xai, which makes int8",
    )
    parser.add_argument(
        "--xai-scale-groups",
        type=int,
        metavar="N",
        help="--to xai: groups of rows with scales of their own in o_proj and linear_1, which is "
        "the model axis of the mesh that xAI's program runs on; default: 8, as in the release",
    )
    parser.add_argument(
        "--presharded-ranks",
        type=int,
        metavar="N",
        help="--to presharded: ranks that share the experts, a file each; default: 8, as in the "
        "release of Grok-2",
    )
    parser.add_argument("--resume", action="store_true", help="go on with OUTPUT.partial")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert; 0 when the audit passed."""
    # torch takes seconds to import, and --help does not need it.
    import torch

    from ml_models.commands.progress import show_progress
    from ml_models.conversion.convert import DTYPES, convert
    from ml_models.conversion.open import open_source
    from ml_models.conversion.report import REPORT
    from ml_models.weights.sink import SinkOptions

    # Blocks are prepared in one thread and written in another; torch's own threads would fight
    # with both: one layer of the release takes 1.4 times as long with them on two cores.
    torch.set_num_threads(1)
    source = open_source(
        args.source_format,
        args.input,
        name=args.model,
        config=args.config,
        variant=args.variant,
    )
    with show_progress(quiet=args.json) as progress:
        report = convert(
            source,
            args.target_format,
            args.output,
            SinkOptions(
                dtype=DTYPES[args.dtype] if args.dtype else None,
                scale_groups=args.xai_scale_groups,
                presharded_ranks=args.presharded_ranks,
            ),
            resume=args.resume,
            progress=progress,
        )
    if args.json:
        terminal.result(json.dumps(report, indent=1))
        return 0
    terminal.result(
        f"{report['num_source_tensors']} tensors read once each, {report['num_target_tensors']} "
        f"written once each: {report['num_parameters']:,} parameters in {len(report['files'])} "
        f"file{'s' if len(report['files']) != 1 else ''} of {args.output}"
    )
    terminal.result(_losses(report["targets"]))
    for note in report["notes"]:
        terminal.result(note)
    terminal.result(f"every tensor's shape, dtype and checksum: {args.output / REPORT}")
    return 0


def _losses(targets: Mapping[str, Any]) -> str:
    """How many numbers the new dtypes rounded, and by how much at most."""
    rounded = sum(entry["rounded_elements"] for entry in targets.values())
    if not rounded:
        return "every number is kept exactly"
    total = sum(math.prod(entry["shape"]) for entry in targets.values())
    worst = max(targets, key=lambda name: targets[name]["largest_error"])
    return (
        f"{rounded:,} of {total:,} numbers were rounded, by at most "
        f"{targets[worst]['largest_error']:.3g} (in {worst})"
    )
