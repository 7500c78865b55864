"""ml-models convert: weights between Hugging Face, xAI's release and Megatron, with an audit."""

import argparse
import json
from pathlib import Path

FORMATS = ("huggingface", "xai", "megatron")
DTYPE_NAMES = ("bf16", "fp32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--from", dest="source_format", required=True, choices=FORMATS)
    parser.add_argument("--to", dest="target_format", required=True, choices=FORMATS)
    parser.add_argument("--input", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", help="a model's name, see ml-models list")
    which.add_argument("--config", type=Path, help="a configuration file: ours, HF's or xAI's")
    parser.add_argument("--variant", choices=("xai", "hpcai"), help="Grok-1's activation")
    parser.add_argument("--dtype", choices=DTYPE_NAMES, help="of the result; default: the input's")
    parser.add_argument("--resume", action="store_true", help="go on with OUTPUT.partial")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert; 0 when the audit passed."""
    import torch

    from ml_models.commands.progress import show_progress
    from ml_models.conversion.convert import DTYPES, REPORT, convert
    from ml_models.conversion.open import open_source

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
            dtype=DTYPES[args.dtype] if args.dtype else None,
            resume=args.resume,
            progress=progress,
        )
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    rounded = sum(entry["rounded_elements"] for entry in report["targets"].values())
    print(
        f"{report['num_source_tensors']} tensors read once each, {report['num_target_tensors']} "
        f"written once each: {report['num_parameters']:,} parameters in {len(report['files'])} "
        f"file{'s' if len(report['files']) != 1 else ''} of {args.output}"
    )
    if rounded:
        print(f"{rounded:,} values were rounded to {args.dtype}")
    for note in report["notes"]:
        print(note)
    print(f"every tensor's shape, dtype and checksum: {args.output / REPORT}")
    return 0
