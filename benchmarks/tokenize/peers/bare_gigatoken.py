"""The least that a script around gigatoken can do: read, encode with all threads, write."""

from pathlib import Path

import gigatoken
import numpy as np
import pyarrow.parquet as pq
from common import EOD, arguments, write_index


def main() -> None:
    args = arguments()
    tokenizer = gigatoken.Tokenizer.from_json(Path(args.json).read_bytes())
    all_lengths = []
    with open(f"{args.output}.bin", "wb") as out, pq.ParquetFile(args.input) as file:
        for batch in file.iter_batches(8192, columns=["text"]):
            done = tokenizer.encode_batch(batch.column(0).to_pylist())
            offsets = np.asarray(done.layout.offsets.data)
            ids = np.asarray(done.layout.content.data)[offsets[0] : offsets[-1]].astype("<i4")
            out.write(np.insert(ids, offsets[1:] - offsets[0], EOD).data)
            all_lengths.append(np.diff(offsets) + 1)
    write_index(args.output, np.concatenate(all_lengths).astype(np.int32))


if __name__ == "__main__":
    main()
