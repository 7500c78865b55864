"""Planned step times against measured ones, after a calibration of this machine.

    python benchmarks/planning/calibrate.py [--processes 1 2 4] [--repeats 7] [--results FILE]

For each number of processes: `ml-train plan --calibrate`'s measurement, real steps of the runs of
runs.py, and `ml-train plan` of the same flags. The median of the real steps counts. Other programs
of the machine slow the calibration and the steps alike only while they do the same, so leave the
machine alone. Every process has one thread. --results keeps what was measured, so that numbers of
processes can be measured one after another; the table has all of them.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from runs import RUNS

from ml_train.cli import main as ml_train
from ml_train.planning.calibration.run import calibrate

Row = dict[str, Any]


def main() -> int:
    """Measure, plan and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", nargs="+", type=int, default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--results", type=Path, help="a JSON file that is read and added to")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[Row] = []
    if args.results and args.results.exists():
        rows = json.loads(args.results.read_text())
    for processes in args.processes:
        rows = [row for row in rows if row["processes"] != processes]
        rows += compared(processes, args.repeats)
        if args.results:
            args.results.write_text(json.dumps(rows, indent=2))
    print_table(sorted(rows, key=lambda row: row["processes"]))
    return 0


def compared(processes: int, repeats: int) -> list[Row]:
    """A row per run of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        device = Path(folder) / "this-machine.toml"
        # While a pipeline fills, fewer processes compute.
        numbers = [number for number in (2, 4) if number <= processes] or [1]
        calibrate(device, platform="cpu", numbers=numbers, progress=note)
        note(f"{processes} processes: real steps")
        measured = measured_seconds(processes, repeats)
        note(f"{processes} processes: plans")
        return [
            {
                "processes": processes,
                "name": name,
                "planned": planned_seconds(words, processes, device),
                "measured": statistics.median(measured[name]),
                "fastest": min(measured[name]),
            }
            for name, words in RUNS[processes].items()
        ]


def measured_seconds(processes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of the real steps of each run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes)]
    command += [str(Path(__file__).with_name("steps.py")), str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line["seconds"] for line in lines}


def planned_seconds(words: list[str], processes: int, device: Path) -> float:
    """What ml-train plan says of the same run."""
    output = io.StringIO()
    flags = ["--device", str(device), "--nproc-per-node", str(processes), "--json"]
    with contextlib.redirect_stdout(output):
        code = ml_train(["plan", *words, *flags])
    if code not in (0, 1):  # 1: the run does not fit its part of the memory.
        raise SystemExit(code)
    return float(json.loads(output.getvalue())["measured_step"]["seconds"])


def print_table(rows: list[Row]) -> None:
    """A line per run, and the median error."""
    print("| processes | run | planned s | measured s | error | fastest step s |")
    print("|---|---|---|---|---|---|")
    errors = []
    for row in rows:
        error = row["planned"] / row["measured"] - 1
        errors.append(abs(error))
        print(
            f"| {row['processes']} | {row['name']} | {row['planned']:.3f} | "
            f"{row['measured']:.3f} | {error:+.0%} | {row['fastest']:.3f} |"
        )
    print(f"\nmedian error over {len(errors)} runs: {statistics.median(errors):.0%}")


def note(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
