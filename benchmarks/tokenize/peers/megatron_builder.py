"""megatron-core's IndexedDatasetBuilder fed by SentencePiece, in the way of preprocess_data.py.

A pool encodes document by document (chunks of 32), the main process adds them to the builder.
"""

import multiprocessing
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
import sentencepiece
import torch
from common import EOD, arguments
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

_processor = sentencepiece.SentencePieceProcessor()


def start(tokenizer: str) -> None:
    _processor.Load(f"{tokenizer}/tokenizer.model")


def encode(text: str) -> list[int]:
    return _processor.encode(text) + [EOD]


def texts(path: str) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(8192, columns=["text"]):
            yield from batch.column(0).to_pylist()


def main() -> None:
    args = arguments()
    builder = IndexedDatasetBuilder(f"{args.output}.bin", dtype=np.int32)
    with multiprocessing.Pool(args.workers, start, (args.tokenizer,)) as pool:
        for ids in pool.imap(encode, texts(args.input), 32):
            builder.add_document(torch.IntTensor(ids), [len(ids)])
    builder.finalize(f"{args.output}.idx")


if __name__ == "__main__":
    main()
