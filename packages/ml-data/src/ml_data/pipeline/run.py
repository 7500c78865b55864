"""A run in a straight line: sources, tokenizer, outputs, batches through workers, publish."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_data.documents.batch import Batch, Position
from ml_data.documents.read import read_source
from ml_data.documents.schema import check_all_columns, column_names
from ml_data.documents.sources import Source, find_sources, source_checksum
from ml_data.documents.template import get_template
from ml_data.errors import InputError, OutputError, TokenizerError
from ml_data.indexed import layout
from ml_data.indexed.files import publish, reporting_output
from ml_data.indexed.layout import best_dtype
from ml_data.pipeline.encode import Job
from ml_data.pipeline.executors import make_executor
from ml_data.pipeline.journal import Journal, Progress
from ml_data.pipeline.manifest import build_manifest, describe_inputs, read_manifest
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.output import Output, moves_of, quarantine_path
from ml_data.tokenizers import Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Tick:
    """How far a run is, for a progress display."""

    num_documents: int
    num_bytes: int
    seconds: float
    file: int
    num_files: int


OnProgress = Callable[[Tick], None]
OnNotice = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that was found to be possible."""

    options: TokenizeOptions
    sources: list[Source]
    tokenizer: Tokenizer
    job: Job
    columns: list[str]
    prefixes: list[str]
    work: Path


def output_prefix(options: TokenizeOptions, key: str) -> str:
    """P_key_document."""
    return f"{options.output_prefix}_{key}_document"


def make_plan(options: TokenizeOptions, notice: OnNotice) -> Plan:
    """Check everything that can be checked before the first row is read."""
    sources = find_sources(list(options.input))
    tokenizer = load_tokenizer(
        options.tokenizer_name_or_path,
        tokenizer_type=options.tokenizer_type,
        engine=options.engine,
        parse_special_tokens=options.parse_special_tokens,
    )
    if options.append_eod and tokenizer.eod_id is None:
        raise TokenizerError(
            f"{tokenizer.path} names no end-of-document token: leave --append-eod away"
        )
    options = _with_default_template(options, sources, notice)
    template = get_template(options.template) if options.template else None
    columns = list(template.fields if template else options.json_keys)
    check_all_columns(sources, columns)
    job = Job(
        tokenizer_path=tokenizer.path,
        tokenizer_type=options.tokenizer_type,
        engine=options.engine,
        parse_special_tokens=options.parse_special_tokens,
        keys=options.json_keys,
        dtype=best_dtype(tokenizer.vocab_size).str,
        eod_id=tokenizer.eod_id if options.append_eod else None,
        template=options.template,
        max_document_tokens=options.max_document_tokens,
    )
    return Plan(
        options=options,
        sources=sources,
        tokenizer=tokenizer,
        job=job,
        columns=columns,
        prefixes=[output_prefix(options, key) for key in options.json_keys],
        work=Path(f"{options.output_prefix}.work"),
    )


def _with_default_template(
    options: TokenizeOptions, sources: list[Source], notice: OnNotice
) -> TokenizeOptions:
    """Alpaca's schema without a `text` column works out of the box."""
    if options.template or options.json_keys != ("text",):
        return options
    names = column_names(sources[0])
    if "text" in names or not {"instruction", "input", "output"} <= set(names):
        return options
    notice("no column 'text', but instruction, input and output: using --template alpaca")
    return replace(options, template="alpaca")


def tokenize(
    options: TokenizeOptions,
    *,
    on_progress: OnProgress = lambda tick: None,
    on_notice: OnNotice = lambda text: None,
) -> list[dict[str, Any]]:
    """Run, or go on with, the whole job; the manifests of the outputs, one per key."""
    plan = make_plan(options, on_notice)
    identity = _identity(plan)
    journal = Journal(plan.work / "journal.jsonl", identity)
    with _locked_work(plan.work, journal):
        progress = journal.read()
        if progress is None or not progress.sealed:
            finished = _finished_before(plan, identity)
            if finished is not None:
                on_notice(
                    "the output is complete already: nothing to do (--overwrite makes it again)"
                )
                return finished
            if progress is None:
                journal.start()
                progress = Progress()
            else:
                on_notice(f"going on after shard {progress.shard} of an earlier run")
            _write(plan, journal, progress, identity, on_progress)
        for prefix in plan.prefixes:
            with reporting_output(prefix):
                moves = moves_of(prefix, plan.work)
                if moves[0][0].exists():  # nothing of this run is published yet
                    quarantine_path(prefix).unlink(missing_ok=True)
                publish(moves)
    manifests = [read_manifest(prefix) for prefix in plan.prefixes]
    return [one for one in manifests if one is not None]


@contextmanager
def _locked_work(work: Path, journal: Journal) -> Iterator[None]:
    """The work folder, held by this process alone; removed unless a later run can go on from it."""
    with reporting_output(work):
        work.mkdir(parents=True, exist_ok=True)
        handle = os.open(work / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{work} is in use by another run: wait for it, or choose another --output-prefix"
            ) from None
        try:
            yield
        except BaseException:
            if journal.num_shards == 0:
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(handle)


def _identity(plan: Plan) -> dict[str, Any]:
    """What must be the same for a journal to be gone on with, or an output to be kept."""
    return {
        "options": plan.options.that_shape_the_output(),
        "inputs": [[one.name, one.num_bytes, one.modified_ns] for one in plan.sources],
        "tokenizer": [plan.tokenizer.fingerprint, plan.tokenizer.vocab_size, plan.job.eod_id],
        "task": [plan.options.task_index, plan.options.num_tasks],
    }


def _finished_before(plan: Plan, identity: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Manifests when the same command has finished before; OutputError when another one has."""
    existing = [one for one in plan.prefixes if layout.idx_path(one).exists()]
    if not existing or plan.options.overwrite:
        return None
    manifests = [read_manifest(prefix) for prefix in plan.prefixes]
    wanted = _digest(identity)
    found = [one for one in manifests if one and one["run"].get("identity") == wanted]
    if len(found) == len(plan.prefixes):
        return found
    raise OutputError(
        f"{existing[0]}.idx exists and was made by another command: choose another "
        "--output-prefix, or replace it with --overwrite"
    )


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _write(
    plan: Plan,
    journal: Journal,
    progress: Progress,
    identity: dict[str, Any],
    on_progress: OnProgress,
) -> None:
    """Everything from the first row to sealed files and manifests in the work folder."""
    started, options = time.time(), plan.options
    dtype = best_dtype(plan.tokenizer.vocab_size)
    states: list[dict[str, Any] | None] = [*progress.outputs] or [None] * len(plan.prefixes)
    outputs = [
        Output(prefix, key, dtype, plan.work, plan.options.on_error, state)
        for prefix, key, state in zip(plan.prefixes, plan.options.json_keys, states, strict=True)
    ]
    sums = ThreadPoolExecutor(1, thread_name_prefix="checksums")
    try:
        digests = [
            sums.submit(source_checksum, source, options.input_checksums) for source in plan.sources
        ]
        _encode_all(plan, journal, progress, outputs, on_progress)
        _require_tokens(plan, outputs)
        inputs = describe_inputs(plan.sources, progress.rows, [one.result() for one in digests])
        run = {
            "host": platform.node(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 3),
            "workers": plan.options.workers,
            "executor": plan.options.executor,
            "identity": _digest(identity),
        }
        for output in outputs:
            facts = output.seal()
            output.write_manifest(
                build_manifest(plan.options, output, plan.tokenizer, inputs, facts, run)
            )
        progress.sealed, progress.outputs = True, []
        journal.append(progress, {})
    finally:
        sums.shutdown(wait=True, cancel_futures=True)
        for output in outputs:
            output.close()


def _require_tokens(plan: Plan, outputs: list[Output]) -> None:
    for output in outputs:
        if output.writer.num_tokens == 0 and plan.options.num_tasks == 1:
            counts = output.ledger
            raise InputError(
                f"{', '.join(plan.options.input)}: no tokens for {output.key!r}: "
                f"{counts.documents_in} documents read, {counts.documents_empty} of them empty, "
                f"{counts.num_dropped} dropped {counts.documents_dropped or ''}"
            )


def _encode_all(
    plan: Plan,
    journal: Journal,
    progress: Progress,
    outputs: list[Output],
    on_progress: OnProgress,
) -> None:
    options = plan.options
    started = time.monotonic()
    size = sum(source.num_bytes for source in plan.sources)
    executor = make_executor(plan.job, plan.tokenizer, options.workers, size, options.batch_bytes)
    documents = total_bytes = 0
    new_rows: dict[int, int] = {}
    next_tick = options.log_interval
    with closing(executor.run(_batches(plan, progress.position, progress.shard))) as results:
        for batch, encoded in results:
            for output, one in zip(outputs, encoded, strict=True):
                output.add(batch.source, one)
            progress.position = batch.end
            new_rows[batch.end.file] = batch.end.row
            total_bytes += batch.num_bytes
            documents += batch.num_rows
            if batch.ends_shard:
                progress.shard = batch.shard
                progress.outputs = [output.sync() for output in outputs]
                journal.append(progress, new_rows)
                progress.rows.update(new_rows)
                new_rows = {}
            if documents >= next_tick:
                next_tick = documents - documents % options.log_interval + options.log_interval
                on_progress(
                    Tick(
                        num_documents=documents,
                        num_bytes=total_bytes,
                        seconds=time.monotonic() - started,
                        file=batch.end.file,
                        num_files=len(plan.sources),
                    )
                )
    progress.rows.update(new_rows)


def _batches(plan: Plan, start: Position, shards_done: int) -> Iterator[Batch]:
    """Batches from `start` on, cut into shards by the bytes read, whatever the workers do."""
    shard, shard_bytes = shards_done + 1, 0
    for index, source in enumerate(plan.sources):
        if index < start.file:
            continue
        at = start if index == start.file else Position(file=index)
        for batch in read_source(source, index, at, plan.columns, plan.options.batch_bytes):
            shard_bytes += batch.num_bytes
            ends = shard_bytes >= plan.options.shard_bytes
            yield replace(batch, shard=shard, ends_shard=ends)
            if ends:
                shard, shard_bytes = shard + 1, 0
