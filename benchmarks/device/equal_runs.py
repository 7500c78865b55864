"""Whether two training runs had the same losses and norms of gradients, to the bit.

    python benchmarks/device/equal_runs.py FOLDER FOLDER

The folders are what the runs' --save named. Ends with 1 and the first step that differs.
"""

import argparse
import json
from pathlib import Path

COMPARED = ("iteration", "loss", "grad_norm")


def steps(folder: Path) -> list[tuple[object, ...]]:
    """COMPARED of every step that the run's metrics report."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [entry for entry in map(json.loads, lines) if entry["kind"] == "report"]
    return [tuple(entry[name] for name in COMPARED) for entry in reports]


def main() -> int:
    """Compare and say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs=2, metavar="FOLDER")
    first, second = map(steps, parser.parse_args().folders)
    if first and first == second:
        print(f"equal to the bit in {len(first)} steps")
        return 0
    different = [pair for pair in zip(first, second, strict=False) if pair[0] != pair[1]]
    print(f"not equal: {different[0] if different else (len(first), len(second))}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
