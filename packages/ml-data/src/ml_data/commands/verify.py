"""`ml-data verify`: is a token file whole, and what its manifest says?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ml_data.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("prefix", nargs="+", help="P of P.bin and P.idx")
    parser.add_argument(
        "--tokenizer-name-or-path", "--tokenizer-model", help="compare its fingerprint, too"
    )
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """0 when every pair is sound, else 1."""
    # Imported here for start-up time: it brings numpy and pyarrow.
    from ml_data.api import verify

    reports = [verify(prefix, args.tokenizer_name_or_path) for prefix in args.prefix]
    if args.json:
        say(
            json.dumps(
                [{**asdict(report), "is_sound": report.is_sound} for report in reports], indent=2
            )
        )
    else:
        for report in reports:
            if not report.checked:
                say(f"{report.prefix}: {'; '.join(report.faults)}")
                continue
            count = len(report.faults)
            state = "sound" if not count else f"{count} fault{'s' if count > 1 else ''}"
            note = "" if report.has_manifest else "; no manifest, so no checksums"
            say(
                f"{report.prefix}: {state} ({report.num_documents:,} documents, "
                f"{report.num_tokens:,} tokens, {report.dtype}; "
                f"checked {', '.join(report.checked)}{note})"
            )
            for fault in report.faults:
                say(f"  {fault}")
    return 0 if all(report.is_sound for report in reports) else 1
