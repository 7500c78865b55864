"""`--dry-run`: what a run would read, how long it would take, how large its output would be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import TypedDict

import numpy as np

from ml_data.documents.read import read_source
from ml_data.documents.sources import enumerate_names
from ml_data.errors import InputError
from ml_data.indexed.publication import Publication
from ml_data.notices import Notice
from ml_data.pipeline.encode import encode_batch
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.plan import TokenizePlan, make_plan
from ml_data.pipeline.resume import finished_before

_SAMPLED_FILES, _SAMPLED_BATCHES = 4, 2


class EstimatedOutput(TypedDict):
    """The expected size of an output."""

    prefix: str
    tokens: int
    bin_bytes: int
    idx_bytes: int


class Estimate(TypedDict):
    """What `--dry-run --json` prints."""

    files: int
    inputs: list[dict[str, str | int]]
    left_out: list[dict[str, str]]
    input_bytes: int
    text_bytes: int
    documents: int
    seconds: float
    dtype: str
    engine: str
    outputs: list[EstimatedOutput]


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """What was encoded for an estimate; `tokens` per output, `seconds` of one worker."""

    tokens: list[int]
    num_bytes: int
    num_documents: int
    seconds: float


def estimate(options: TokenizeOptions, notice: Notice) -> Estimate:
    """Estimate a run from footers and from encoding a little of a few files; nothing is written."""
    plan = make_plan(options, notice)
    publication = Publication(plan.prefixes, plan.work, overwrite=options.overwrite)
    publication.refuse_strangers()
    if finished_before(plan, notice) is not None:
        notice("the output is complete already: a run would keep it (--overwrite makes it again)")
    dtype = np.dtype(plan.job.dtype)
    sampled = _sample(plan)
    text_bytes = _text_bytes(plan)
    scale = text_bytes / max(sampled.num_bytes, 1)
    tokens = [round(count * scale) for count in sampled.tokens]
    documents = round(sampled.num_documents * scale)
    known_rows = [size.num_rows for size in plan.sizes]
    total = sum(source.num_bytes for source in plan.sources)
    # Footers of parquet state the number of rows. That is exact, where the sample is a guess.
    if all(rows is not None for rows in known_rows) and options.num_tasks == 1:
        documents = sum(rows or 0 for rows in known_rows)
    return {
        "files": len(plan.segments),
        "inputs": [{"path": source.name, "bytes": source.num_bytes} for source in plan.sources],
        "left_out": [entry.to_dict() for entry in plan.left_out],
        "input_bytes": total,
        "text_bytes": text_bytes,
        "documents": documents,
        "seconds": round(sampled.seconds * scale / options.workers, 1),
        "dtype": dtype.name,
        "engine": plan.tokenizer.engine_name,
        "outputs": [
            {
                "prefix": prefix,
                "tokens": count,
                "bin_bytes": count * dtype.itemsize,
                "idx_bytes": 34 + 20 * documents,
            }
            for prefix, count in zip(plan.prefixes, tokens, strict=True)
        ],
    }


def _sample(plan: TokenizePlan) -> _Sample:
    """Encode the first batches of a few files spread over the input."""
    step = max(1, len(plan.segments) // _SAMPLED_FILES)
    tokens = np.zeros(len(plan.prefixes), np.int64)
    num_bytes = documents = 0
    bad: list[str] = []
    seconds = 0.0
    for segment in plan.segments[::step][:_SAMPLED_FILES]:
        batches = read_source(
            plan.sources[segment.file], segment, plan.columns, plan.options.batch_bytes
        )
        for batch in islice(batches, _SAMPLED_BATCHES):
            started = time.monotonic()
            results = encode_batch(batch, plan.job, plan.tokenizer)
            seconds += time.monotonic() - started
            tokens += [len(result.ids) for result in results]
            num_bytes += batch.num_bytes
            documents += batch.num_rows
            bad += [f"{batch.source}, row {row['row']}: {row['detail']}"
                    for result in results for row in result.bad[:1]]  # fmt: skip
    names = enumerate_names(source.name for source in plan.sources)
    if not num_bytes:
        raise InputError(f"{names}: no rows to read")
    if not tokens.any():
        why = f". The first: {bad[0]}" if bad else ", all of them empty"
        raise InputError(
            f"{names}: the first {documents:,} rows of the files hold no text, so nothing can be "
            f"estimated{why}"
        )
    return _Sample(
        tokens=tokens.tolist(), num_bytes=num_bytes, num_documents=documents, seconds=seconds
    )


def _text_bytes(plan: TokenizePlan) -> int:
    """Bytes of text that will be read: known for parquet and plain lines, guessed for the rest."""
    total = 0
    for segment in plan.segments:
        known = plan.sizes[segment.file].text_bytes
        # JSON is known to compress to about a quarter of its size.
        total += 4 * plan.sources[segment.file].num_bytes if known is None else known
    return total // plan.options.num_tasks if plan.options.num_tasks > 1 else total


def explain(facts: Estimate) -> str:
    """The estimate as text."""
    lines = [f"input    {entry['path']} ({entry['bytes']:,} bytes)" for entry in facts["inputs"]]
    lines += [_passed_over(entry) for entry in facts["left_out"]]
    lines += [
        f"reads    {facts['files']:,} files, {facts['input_bytes'] / 1e6:,.1f} MB, about "
        f"{facts['text_bytes'] / 1e6:,.1f} MB of text in {facts['documents']:,} documents",
        f"takes    about {facts['seconds']:,.1f} s with {facts['engine']}",
    ]
    for output in facts["outputs"]:
        size = output["bin_bytes"] + output["idx_bytes"]
        lines.append(
            f"writes   {output['prefix']}: about {output['tokens']:,} tokens ({facts['dtype']}), "
            f"{size / 1e6:,.1f} MB"
        )
    return "\n".join(lines)


def _passed_over(entry: dict[str, str]) -> str:
    same = f"which is {entry['same_as']}; " if "same_as" in entry else ""
    return f"not read {entry['path']} ({same}{entry['reason']})"
