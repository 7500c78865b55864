"""`datasets.map` with SentencePiece in worker processes, then one pass that writes .bin/.idx."""

import os
import tempfile

import numpy as np
import sentencepiece
from common import EOD, arguments, write_index

_processor = sentencepiece.SentencePieceProcessor()


def encode(batch: dict, tokenizer: str) -> dict:
    if _processor.vocab_size() == 0:
        _processor.Load(f"{tokenizer}/tokenizer.model")
    return {"ids": [ids + [EOD] for ids in _processor.encode(batch["text"], num_threads=1)]}


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_HOME"] = cache
        import datasets

        rows = datasets.load_dataset("parquet", data_files=args.input, split="train")
        done = rows.map(
            encode, batched=True, num_proc=args.workers, remove_columns=rows.column_names,
            fn_kwargs={"tokenizer": args.tokenizer},
        )  # fmt: skip
        lengths = []
        with open(f"{args.output}.bin", "wb") as out:
            for batch in done.with_format("arrow").iter(8192):
                ids = batch["ids"].combine_chunks()
                lengths.append(ids.value_lengths().to_numpy())
                out.write(ids.flatten().to_numpy().astype("<i4").data)
        write_index(args.output, np.concatenate(lengths).astype(np.int32))


if __name__ == "__main__":
    main()
