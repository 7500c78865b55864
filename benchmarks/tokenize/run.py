"""Whole processes from a parquet file to a finished token file, alternated, medians and ratios.

Every round runs each program once, in turn, so that a busy machine is unfair to none. Memory is
taken in a round of its own: the sum over all processes of what each holds for itself plus its
share of what it shares (PSS), sampled every 20 ms. `differs` counts documents whose ids are not
those of SentencePiece (which megatron-core's builder was fed with).

CPU seconds count all processes and depend less on what else runs on the machine.

Usage: python run.py FOLDER [--input alpaca|mixed] [--rounds 5] [--workers 2] [--only NAME ...]
FOLDER is where make_inputs.py wrote. Run it where requirements.txt and ml-data are installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from recipe import write_json

HERE = Path(__file__).parent
TOKENIZER = HERE.parents[1] / "examples" / "data" / "grok1_tokenizer"
TRUTH = "megatron-core"
GIGATOKEN = "ml-data --engine gigatoken"
PEERS = {
    "ml-data": None,
    GIGATOKEN: None,
    "bare gigatoken": "bare_gigatoken.py",
    TRUTH: "megatron_builder.py",
    "datatrove": "datatrove_tokenizer.py",
    "datasets.map": "datasets_map.py",
}


@dataclass
class Result:
    """What was measured of one program."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    differs: str = "-"


def command(name: str, source: Path, out: Path, args: argparse.Namespace) -> list[str]:
    """The command line of a program; its output is cleared first."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    script = PEERS[name]
    if script is None:
        return [
            sys.executable, "-m", "ml_data.cli", "tokenize", "--input", str(source),
            "--tokenizer-name-or-path", str(TOKENIZER), "--output-prefix", str(out / "out"),
            "--append-eod", "--workers", str(args.workers), "--log-interval", "1000000000",
            "--engine", "gigatoken" if name == GIGATOKEN else "auto",
        ]  # fmt: skip
    return [
        sys.executable, str(HERE / "peers" / script), "--input", str(source),
        "--tokenizer", str(TOKENIZER), "--json", str(args.folder / "grok1.json"),
        "--output", str(out / "out"), "--workers", str(args.workers),
    ]  # fmt: skip


def run_once(line: list[str], sample_memory: bool) -> tuple[float, float, int]:
    """(seconds, CPU seconds, peak bytes, 0 when not sampled) of the process and all below it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while sample_memory and process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.02)
        output, _ = process.communicate()
        seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{output[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, peak


def tree_bytes(pid: int) -> int:
    """PSS of a process and all its descendants."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def sequences(out: Path) -> list[bytes] | None:
    """The bytes of each document of a .bin/.idx pair; None when there is none."""
    index = next(iter(out.glob("out*.idx")), None)
    if index is None:
        return None
    raw = index.read_bytes()
    count = int.from_bytes(raw[18:26], "little")
    lengths = np.frombuffer(raw, "<i4", count, 34)
    data = index.with_suffix(".bin").read_bytes()
    ends = np.cumsum(lengths, dtype=np.int64) * 4
    return [data[end - size * 4 : end] for end, size in zip(ends.tolist(), lengths.tolist())]  # noqa: B905


def prepare(args: argparse.Namespace) -> Path:
    """What is made once and not timed: the peers' json, and one file per worker for datatrove."""
    source: Path = args.folder / f"{args.input}.parquet"
    if not (args.folder / "grok1.json").exists():
        write_json(TOKENIZER / "tokenizer.model", args.folder / "grok1.json")
    parts = args.folder / f"{args.input}.parts"
    if not parts.exists() or len(list(parts.glob("*.parquet"))) != args.workers:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        table = pq.read_table(source)
        size = -(-len(table) // args.workers)
        for number in range(args.workers):
            part = table.slice(number * size, size)
            pq.write_table(part, parts / f"{number}.parquet", row_group_size=20_000)
    return source


def report(results: dict[str, Result], source: Path, args: argparse.Namespace) -> None:
    """Print the table."""
    text_bytes = pq.read_table(source, columns=["text"]).nbytes
    own = statistics.median(results["ml-data"].seconds) if "ml-data" in results else None
    print(
        f"\n{source.name}: {text_bytes / 1e6:.1f} MB of text, {args.rounds} rounds, "
        f"{args.workers} workers, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    )
    print("| program | seconds (median) | range | CPU s | MB/s | ml-data is | peak MB | differs |")
    print("|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        median = statistics.median(result.seconds)
        cpu = statistics.median(result.cpu_seconds)
        ratio = f"{median / own:.2f} x as fast" if own else "-"
        span = f"{min(result.seconds):.2f}-{max(result.seconds):.2f}"
        print(
            f"| {name} | {median:.2f} | {span} | "
            f"{cpu:.2f} | {text_bytes / 1e6 / median:.1f} | {ratio} | "
            f"{result.peak_bytes / 1e6:.0f} | {result.differs} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--input", default="alpaca")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS))
    args = parser.parse_args()
    source = prepare(args)
    outputs = {name: args.folder / "out" / name.replace(" ", "-") for name in args.only}
    results = {name: Result() for name in args.only}
    for name in args.only:  # memory, and a warm page cache for everyone
        line = command(name, source, outputs[name], args)
        results[name].peak_bytes = run_once(line, sample_memory=True)[2]
    for number in range(args.rounds):
        for name in args.only:
            line = command(name, source, outputs[name], args)
            seconds, cpu, _ = run_once(line, sample_memory=False)
            results[name].seconds.append(seconds)
            results[name].cpu_seconds.append(cpu)
            print(f"round {number + 1}: {name} {seconds:.2f} s, CPU {cpu:.2f} s", flush=True)
    reference = sequences(outputs[TRUTH]) if TRUTH in outputs else None
    for name in args.only:
        tokens = sequences(outputs[name])
        if reference is not None and tokens is not None:
            pairs = zip(tokens, reference, strict=True)
            results[name].differs = str(sum(ids != expected for ids, expected in pairs))
    report(results, source, args)


if __name__ == "__main__":
    main()
