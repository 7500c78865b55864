"""`ml-data tokenize`: parquet or JSON lines to .bin/.idx."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ml_data.terminal import ProgressLine, notice, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command, with Megatron's names where Megatron has them."""
    from ml_data.pipeline.options import (
        BATCH_BYTES,
        EXECUTORS,
        INPUT_CHECKSUMS,
        ON_ERROR,
        SHARD_BYTES,
    )

    add = parser.add_argument
    add("--input", nargs="+", required=True, help="files, directories, globs or URIs")
    add(
        "--tokenizer-name-or-path",
        "--tokenizer-model",
        required=True,
        help="directory or file of the tokenizer",
    )
    add("--output-prefix", required=True, help="P of P_text_document.bin")
    add("--tokenizer-type", default="PretrainedFromHF",
        help="PretrainedFromHF: the files of a release, as they are")  # fmt: skip
    add("--json-keys", nargs="+", default=["text"], help="columns, each with its own output")
    add("--append-eod", action="store_true", help="end documents with the end-of-document id")
    add("--eod-token", metavar="TEXT",
        help="end-of-document token, where the tokenizer's files don't agree on it")  # fmt: skip
    add("--eod-id", type=int, metavar="N", help="the same by its id")
    add("--add-bos", action="store_true",
        help="begin documents with the beginning-of-text token, e.g. <s>")  # fmt: skip
    add("--parse-special-tokens", action="store_true",
        help="control tokens in text, such as [EOS], count as tokens")  # fmt: skip
    add("--engine", default="auto",
        help="auto (default), fast, sentencepiece, gigatoken (optional, by name only), tokenizers, "
        "or transformers for folders that nothing else reads")  # fmt: skip
    add("--workers", type=int, default=4, help="threads or processes that encode (default 4)")
    add("--log-interval", type=int, default=1000, help="documents between progress lines")
    add("--template", help="'alpaca' or a pattern such as 'Q: {question}\\nA: {answer}'")
    add("--on-error", choices=ON_ERROR, default="quarantine",
        help="what to do with rows without a usable text (default: quarantine)")  # fmt: skip
    add("--max-document-tokens", type=int, help="drop longer documents")
    add("--input-checksums", choices=INPUT_CHECKSUMS, default="all",
        help="inputs whose sha256 is recorded; remote ones are read once more for it")  # fmt: skip
    add("--shard-bytes", type=int, default=SHARD_BYTES,
        help="input between two journal entries: what a kill can cost")  # fmt: skip
    add("--batch-bytes", type=int, default=BATCH_BYTES, help="input that a worker takes at a time")
    add("--executor", choices=EXECUTORS, default="local",
        help="where workers are: on this machine, or actors of a Ray cluster")  # fmt: skip
    add("--num-tasks", type=int, default=1, help="cut the input into this many tasks")
    add("--task-index", type=int, default=0,
        help="the task to do, from 0; when all are done: ml-data merge --tasks P")  # fmt: skip
    add("--dry-run", action="store_true",
        help="say what would be read, how long it takes and how large it gets")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the finished output of another command")
    add("--json", action="store_true", help="print the manifests as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ml_data.pipeline.options import TokenizeOptions
    from ml_data.pipeline.run import tokenize

    options = TokenizeOptions(
        input=tuple(args.input),
        tokenizer_name_or_path=args.tokenizer_name_or_path,
        output_prefix=args.output_prefix,
        tokenizer_type=args.tokenizer_type,
        engine=args.engine,
        parse_special_tokens=args.parse_special_tokens,
        json_keys=tuple(args.json_keys),
        append_eod=args.append_eod,
        eod_token=args.eod_token,
        eod_id=args.eod_id,
        add_bos=args.add_bos,
        template=args.template,
        on_error=args.on_error,
        max_document_tokens=args.max_document_tokens,
        workers=args.workers,
        log_interval=args.log_interval,
        overwrite=args.overwrite,
        executor=args.executor,
        num_tasks=args.num_tasks,
        task_index=args.task_index,
        shard_bytes=args.shard_bytes,
        batch_bytes=args.batch_bytes,
        input_checksums=args.input_checksums,
    )
    if args.dry_run:
        from ml_data.pipeline.estimate import estimate, explain

        facts = estimate(options, notice)
        say(json.dumps(facts, indent=2) if args.json else explain(facts))
        return 0
    progress = ProgressLine(sys.stderr)
    try:
        manifests = tokenize(options, on_progress=progress.show, on_notice=notice)
    finally:
        progress.end()
    if args.json:
        say(json.dumps(manifests, indent=2))
        return 0
    for manifest in manifests:
        say(summary(manifest, Path(options.output_prefix).parent))
    return 0


def summary(manifest: dict[str, Any], folder: Path) -> str:
    """One line about an output: first its prefix, as training takes it."""
    name = str(folder / next(iter(manifest["files"]))).removesuffix(".bin")
    ledger = manifest["ledger"]
    dropped = sum(ledger["documents_dropped"].values())
    reasons = ", ".join(f"{count} {why}" for why, count in ledger["documents_dropped"].items())
    kept = next((one for one in manifest["files"] if one.endswith(".quarantine.jsonl")), None)
    reasons += f"; kept in {kept}" if kept else ""
    return (
        f"{name}: {manifest['num_documents']:,} documents "
        f"({ledger['documents_empty']} empty), {manifest['num_tokens']:,} tokens "
        f"({manifest['dtype']}), dropped {dropped}{f' ({reasons})' if reasons else ''}, "
        f"{manifest['run'].get('seconds', 0):.1f} s"
    )
