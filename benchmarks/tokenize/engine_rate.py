"""The engines' own rates with two threads, texts in memory.

The truth is SentencePiece; gigatoken, which reads the tokenizer.json of recipe.py, is shown for
comparison: it is not admitted, since texts with control strings such as `<|separator|>` get other
ids. Every round runs each engine once, in turn, loaded anew; medians.

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

from ml_data.tokenizers import load_tokenizer

TOKENIZER = Path(__file__).parents[2] / "examples" / "data" / "grok1_tokenizer"
BATCH_BYTES = 4 << 20


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
            for _ in pool.map(lambda one: len(tokenizer.encode_arrow(one)[0]), batches):
                pass

    return run


def gigatoken_engine(path: Path) -> Callable[[list[pa.Array]], None]:
    """gigatoken, which starts its own threads."""
    tokenizer = gigatoken.Tokenizer.from_json(path.read_bytes())

    def run(batches: list[pa.Array]) -> None:
        for batch in batches:
            tokenizer.encode_batch(batch.to_pylist())

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--input", default="mixed")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    json = args.folder / "grok1.json"
    if not json.exists():
        write_json(TOKENIZER / "tokenizer.model", json)
    batches = batches_of(args.folder / f"{args.input}.parquet")
    megabytes = sum(one.nbytes for one in batches) / 1e6
    engines = {
        "ml-data fast (admitted)": lambda: own_engine("fast"),
        "gigatoken (not admitted)": lambda: gigatoken_engine(json),
    }
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, load in engines.items():
            run = load()
            started = time.perf_counter()
            run(batches)
            rates[name].append(megabytes / (time.perf_counter() - started))
            print(f"{name}: {rates[name][-1]:.1f} MB/s", flush=True)
    print(f"{args.input}: {megabytes:.0f} MB, two threads, {args.rounds} rounds")
    for name, found in rates.items():
        print(f"{name}: median {statistics.median(found):.1f} MB/s")


if __name__ == "__main__":
    main()
