"""A whole run against its engine's own rate with two threads, texts in memory; and gigatoken's.

The reference is SentencePiece; gigatoken by itself, which reads the tokenizer.json of recipe.py, is
shown for comparison: texts with control strings such as `<|separator|>` get other ids.
Every round runs each engine once, in turn, loaded anew; medians.

Usage: python engine_rate.py FOLDER [--input mixed] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gigatoken
import pyarrow as pa
import pyarrow.parquet as pq
from recipe import write_json
from run import command, run_once

from ml_data.tokenizers import load_tokenizer

TOKENIZER = Path(__file__).parents[2] / "examples" / "data" / "grok1_tokenizer"
BATCH_BYTES = 4 << 20
ENGINE, WHOLE = "ml-data's fast engine", "ml-data, whole process"


def batches_of(path: Path) -> list[pa.Array]:
    """The column `text` in batches of about BATCH_BYTES."""
    column = pq.read_table(path, columns=["text"])["text"]
    rows = max(1, len(column) * BATCH_BYTES // column.nbytes)
    return [
        chunk.slice(start, rows)
        for chunk in column.chunks
        for start in range(0, len(chunk), rows)
    ]  # fmt: skip


def own_engine(name: str) -> Callable[[list[pa.Array]], None]:
    """ml-data's engine of that name, a batch per thread."""
    tokenizer = load_tokenizer(TOKENIZER, engine=name)

    def run(batches: list[pa.Array]) -> None:
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(lambda batch: len(tokenizer.encode_arrow(batch)[0]), batches):
                pass

    return run


def gigatoken_engine(path: Path) -> Callable[[list[pa.Array]], None]:
    """gigatoken, which starts its own threads."""
    tokenizer = gigatoken.Tokenizer.from_json(path.read_bytes())

    def run(batches: list[pa.Array]) -> None:
        for batch in batches:
            tokenizer.encode_batch(batch.to_pylist())

    return run


def whole_process(args: argparse.Namespace) -> Callable[[list[pa.Array]], None]:
    """`ml-data tokenize` from start to synced files."""

    def run(_: list[pa.Array]) -> None:
        source = args.folder / f"{args.input}.parquet"
        run_once(command("ml-data", source, args.folder / "out" / "rate", args), False)

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--input", default="mixed")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.workers = 2
    json = args.folder / "grok1.json"
    if not json.exists():
        write_json(TOKENIZER / "tokenizer.model", json)
    batches = batches_of(args.folder / f"{args.input}.parquet")
    megabytes = sum(batch.nbytes for batch in batches) / 1e6
    programs = {
        ENGINE: lambda: own_engine("fast"),
        WHOLE: lambda: whole_process(args),
        "gigatoken by itself": lambda: gigatoken_engine(json),
    }
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, load in programs.items():
            run = load()
            started = time.perf_counter()
            run(batches)
            rates[name].append(megabytes / (time.perf_counter() - started))
            print(f"{name}: {rates[name][-1]:.1f} MB/s", flush=True)
    print(f"{args.input}: {megabytes:.0f} MB, two threads, {args.rounds} rounds, medians in MB/s")
    for name, measured in rates.items():
        print(f"{name}: {statistics.median(measured):.1f}")
    shares = [whole / engine for whole, engine in zip(rates[WHOLE], rates[ENGINE], strict=True)]
    print(f"whole process / engine, median of the rounds: {statistics.median(shares):.0%}")


if __name__ == "__main__":
    main()
