"""What the peers share: the command line, and the bytes of an .idx file."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EOD = 2  # [EOS] of Grok-1's tokenizer


def arguments() -> argparse.Namespace:
    """--input FILE.parquet --tokenizer FOLDER --json FILE --output PREFIX --workers N."""
    parser = argparse.ArgumentParser()
    for name in ("input", "tokenizer", "json", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    return args


def write_index(prefix: str, lengths: NDArray[np.int32]) -> None:
    """The .idx of int32 sequences, one per document."""
    pointers = np.zeros(len(lengths), "<i8")
    np.cumsum(lengths[:-1].astype("<i8") * 4, out=pointers[1:])
    with open(f"{prefix}.idx", "wb") as out:
        out.write(b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\4")
        out.write(len(lengths).to_bytes(8, "little") + (len(lengths) + 1).to_bytes(8, "little"))
        out.write(lengths.astype("<i4").data)
        out.write(pointers.data)
        out.write(np.arange(len(lengths) + 1, dtype="<i8").data)
