"""datatrove's DocumentTokenizer over its parquet reader; writes datatrove's own .ds files."""

import shutil
from pathlib import Path

from common import arguments
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer


def main() -> None:
    args = arguments()
    path = Path(args.input)
    shutil.rmtree(args.output, ignore_errors=True)
    # A task reads whole files, so the caller splits the input into one file per worker.
    LocalPipelineExecutor(
        pipeline=[
            ParquetReader(str(path.parent / f"{path.stem}.parts"), text_key="text"),
            DocumentTokenizer(
                output_folder=args.output, tokenizer_name_or_path=args.json,
                eos_token="[EOS]", shuffle_documents=False,
            ),
        ],
        tasks=args.workers, workers=args.workers, logging_dir=f"{args.output}/logs",
    ).run()  # fmt: skip


if __name__ == "__main__":
    main()
