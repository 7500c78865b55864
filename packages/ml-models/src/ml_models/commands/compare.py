"""ml-models compare: a model's numbers against a reference file's."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ml_models import registry, terminal
from ml_models.commands.tables import Column, table
from ml_models.errors import ConfigError

if TYPE_CHECKING:
    from ml_models.comparison.report import Comparison

COLUMNS = (Column(13), Column(7, right=True), Column(9, True), Column(9, True), Column())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--weights", type=Path, required=True, help="Hugging Face, ckpt-0 or checkpoint folder"
    )
    parser.add_argument("--reference", type=Path, required=True, help="safetensors file")
    parser.add_argument("--prefix", default="", help="of the reference's keys, such as xai_fp32.")
    parser.add_argument(
        "--variant", choices=registry.variants(), help="what the weights' files do not say"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", help="a model's name, see ml-models list")
    which.add_argument("--config", type=Path, help="a configuration file: ours, HF's or xAI's")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest absolute difference of the logits, decides the exit (default: the "
        "architecture's, 1e-4; Grok-2's 1e-3)",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare; 0 when the logits are within the tolerance, else 1."""
    # These import torch, which takes seconds and which --help does not need.
    from ml_models.comparison import compare, read_reference
    from ml_models.conversion.open import guess_format, open_source

    if args.tolerance is not None and not 0 <= args.tolerance < math.inf:
        raise ConfigError(
            f"--tolerance is {args.tolerance}; it must be a finite number, 0 or more."
        )
    reference = read_reference(args.reference, args.prefix)
    source = open_source(
        guess_format(args.weights),
        args.weights,
        name=args.model,
        config=args.config,
        variant=args.variant,
    )
    own = registry.architecture(source.model).logits_tolerance
    tolerance = own if args.tolerance is None else args.tolerance
    result = compare(source, reference, tolerance)
    terminal.result(json.dumps(result, indent=1) if args.json else as_text(result))
    return 0 if result["passed"] else 1


def as_text(result: "Comparison") -> str:
    """A table with a row per group, the logits first, and the verdict."""
    groups = result["groups"]
    rows = [("", "tensors", "absolute", "relative", "limit")]
    for name in ["logits", *sorted(set(groups) - {"logits"})]:
        entry = groups[name]
        verdict = "" if entry["within"] else f"  EXCEEDED by {entry['worst']}"
        rows.append(
            (
                name,
                str(entry["tensors"]),
                f"{entry['absolute']:.2e}",
                f"{entry['relative']:.2e}",
                f"{entry['limited']} {entry['limit']:g}{verdict}",
            )
        )
    lines = [*table(COLUMNS, rows), f"top-1 agreement {result['top1_agreement']:.2%}"]
    if result["not_compared"]:
        lines.append(f"not compared: {', '.join(result['not_compared'])}")
    lines.append(f"logits {'within' if result['passed'] else 'NOT within'} {result['tolerance']:g}")
    return "\n".join(lines)
