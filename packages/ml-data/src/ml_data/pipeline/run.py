"""A run in a straight line: plan, outputs, batches through workers, seal, publish.

One process reads and writes; the workers encode. Results are written in the order of the input, so
the bytes depend on the input and the options alone.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from ml_data.documents.batch import Batch
from ml_data.documents.read import read_source
from ml_data.documents.sources import SourceFile, enumerate_names, source_checksum
from ml_data.documents.state import require_unchanged
from ml_data.errors import ChangedInputError, InputError
from ml_data.indexed.layout import best_dtype
from ml_data.indexed.manifest import Manifest, read_manifest
from ml_data.indexed.publication import Publication
from ml_data.indexed.work import JOURNAL, WorkFolder
from ml_data.notices import Notice, ignore_notice
from ml_data.pipeline.executors import make_executor
from ml_data.pipeline.journal import OutputState, RunJournal, ShardProgress
from ml_data.pipeline.manifest import build_manifest, describe_inputs, versions
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.output import TokenizeOutput
from ml_data.pipeline.plan import TokenizePlan, make_plan
from ml_data.pipeline.progress import OnProgress, ProgressMeter, ignore_progress
from ml_data.pipeline.resume import earlier_progress, finished_before


def tokenize(
    options: TokenizeOptions,
    *,
    on_progress: OnProgress = ignore_progress,
    on_notice: Notice = ignore_notice,
) -> list[Manifest]:
    """Do the whole run, or the rest of one that stopped; the manifests of the outputs by key."""
    notice = _once(on_notice)
    plan = make_plan(options, notice)
    work = WorkFolder(plan.work, notice, keeps_journal=True)
    identity = {**plan.identity(), "versions": versions(plan.tokenizer.engine_name)}
    journal = RunJournal(plan.work / JOURNAL, identity, notice)
    publication = Publication(plan.prefixes, plan.work, overwrite=options.overwrite, notice=notice)
    try:
        finished = _complete(plan, work, journal, publication, on_progress, notice)
    except ChangedInputError:
        # No later run can go on from shards that mix two states of a file.
        work.remove()
        raise
    except BaseException as error:
        _leave(work, journal, error, notice)
        raise
    if finished is not None:
        return finished
    work.remove()
    manifests = [read_manifest(prefix) for prefix in plan.prefixes]
    return [manifest for manifest in manifests if manifest is not None]


def _complete(
    plan: TokenizePlan,
    work: WorkFolder,
    journal: RunJournal,
    publication: Publication,
    on_progress: OnProgress,
    notice: Notice,
) -> list[Manifest] | None:
    """Do what is left to do until the outputs have their final names.

    Returns the manifests, with the work folder unlocked, where an earlier run had finished all.
    """
    progress, reason = earlier_progress(plan, journal, publication)
    # An earlier run that sealed everything and was killed needs no more than the last line.
    if progress is None or not progress.sealed:
        publication.refuse_strangers()
        finished = finished_before(plan, notice)
        if finished is not None:
            notice("the output is complete already (--overwrite makes it again)")
            # A work folder with the progress of another command is not removed: it may be wanted.
            if reason:
                notice(f"{work.path} is left as it is: {reason}")
                work.release()
            else:
                work.remove()
            return finished
        publication.check()
        if progress is None:
            if reason:
                notice(f"starting over, as {work.path} cannot be gone on with: {reason}")
            work.clear()
            journal.start()
            progress = ShardProgress()
        else:
            notice(f"going on after shard {progress.shard} of an earlier run")
        _write(plan, journal, publication, progress, on_progress, notice)
    publication.publish()
    return None


def _once(notice: Notice) -> Notice:
    """A notice that tells each sentence once. Every shard may have the same thing to tell."""
    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            notice(text)

    return tell


def _leave(work: WorkFolder, journal: RunJournal, error: BaseException, notice: Notice) -> None:
    """Keep the finished shards for a later run; remove a work folder without any."""
    if journal.num_shards == 0:
        work.remove()
        return
    work.release()
    if not isinstance(error, Exception):  # Ctrl-C or SIGTERM: there is nothing to mend first
        notice(f"stopped after shard {journal.num_shards}: the same command goes on from there")


def _write(
    plan: TokenizePlan,
    journal: RunJournal,
    publication: Publication,
    progress: ShardProgress,
    on_progress: OnProgress,
    notice: Notice,
) -> None:
    """Everything from the first row to sealed files and manifests in the work folder."""
    started, options = time.time(), plan.options
    dtype = best_dtype(plan.tokenizer.vocab_size)
    # A journal without a finished shard has no states: every output starts empty.
    states: list[OutputState | None] = [*progress.outputs] or [None] * len(plan.prefixes)
    outputs = [
        TokenizeOutput(prefix, key, dtype, publication, options.on_error, state, notice)
        for prefix, key, state in zip(plan.prefixes, options.json_keys, states, strict=True)
    ]
    # In a thread, as hashing and reading let the encoding go on meanwhile.
    pool = ThreadPoolExecutor(1, thread_name_prefix="checksums")
    try:
        checksums = _start_checksums(plan, pool)
        _encode_all(plan, journal, progress, outputs, on_progress)
        _require_tokens(plan, journal, outputs)
        for segment in plan.segments:
            if plan.sources[segment.file].is_local:
                require_unchanged(plan.sources[segment.file])
        results = {file: checksum.result() for file, checksum in checksums.items()}
        inputs = describe_inputs(plan, progress.rows, results)
        run = _run_record(plan, started)
        for output in outputs:
            sealed = output.seal()
            manifest = build_manifest(plan, output, inputs, sealed, run)
            publication.write_manifest(output.prefix, manifest)
        # From here on a killed run has nothing left to do but to publish.
        progress.sealed, progress.outputs = True, []
        journal.append(progress, {})
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for output in outputs:
            output.close()


def _run_record(plan: TokenizePlan, started: float) -> dict[str, object]:
    """The section `run` of the manifests: what may differ between runs with equal outputs."""
    return {
        "host": platform.node(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "workers": plan.options.workers,
        "executor": plan.options.executor,
        "identity": plan.identity_digest(),
        "left_out": [left.to_dict() for left in plan.left_out],
    }


def _start_checksums(plan: TokenizePlan, pool: ThreadPoolExecutor) -> dict[int, Future[str | None]]:
    """The checksums of the inputs by their index, as they are taken in the background.

    Several tasks may share a file. The task that reads its first row takes the checksum.
    """
    return {
        segment.file: pool.submit(
            _checksum, plan.sources[segment.file], plan.options.input_checksums
        )
        for segment in plan.segments
        if segment.start.row == segment.start.offset == 0
    }


def _checksum(source: SourceFile, which: str) -> str | None:
    digest = source_checksum(source, which)
    if digest is not None:
        require_unchanged(source)
    return digest


def _require_tokens(plan: TokenizePlan, journal: RunJournal, outputs: list[TokenizeOutput]) -> None:
    for output in outputs:
        if output.writer.num_tokens == 0 and plan.options.num_tasks == 1:
            counts = output.ledger
            kept = f". What was set aside is in {plan.work}" if journal.num_shards else ""
            raise InputError(
                f"{enumerate_names(source.name for source in plan.sources)}: no tokens for "
                f"{output.key!r}: {counts.documents_in} documents read, {counts.documents_empty} "
                f"of them empty, {counts.num_dropped} dropped {counts.documents_dropped or ''}"
                f"{output.first_bad}{kept}"
            )


def _encode_all(
    plan: TokenizePlan,
    journal: RunJournal,
    progress: ShardProgress,
    outputs: list[TokenizeOutput],
    on_progress: OnProgress,
) -> None:
    executor = make_executor(plan)
    meter = ProgressMeter(plan, on_progress)
    new_rows: dict[int, int] = {}
    with closing(executor.run(_batches(plan, progress))) as results:
        for batch, encoded in results:
            for output, result in zip(outputs, encoded, strict=True):
                output.add(batch.source, result)
            progress.position = batch.end
            new_rows[batch.end.file] = batch.end.row
            if batch.ends_shard:
                progress.shard = batch.shard
                progress.outputs = [output.sync() for output in outputs]
                journal.append(progress, new_rows)
                progress.rows.update(new_rows)
                new_rows = {}
            meter.add(batch)
    meter.end()
    progress.rows.update(new_rows)


def _batches(plan: TokenizePlan, progress: ShardProgress) -> Iterator[Batch]:
    """Batches after the last finished shard, cut into shards by the bytes read."""
    options, done = plan.options, progress.position
    shard, shard_bytes = progress.shard + 1, 0
    # Where a shard ends depends on the bytes read alone, so any number of workers and resumes gives
    # the same shards.
    resumed = progress.shard > 0
    for segment in plan.segments:
        if resumed and segment.file < done.file:
            continue
        if resumed and segment.file == done.file:
            segment = replace(segment, start=done)
        source = plan.sources[segment.file]
        for batch in _unchanged(
            source, read_source(source, segment, plan.columns, options.batch_bytes)
        ):
            shard_bytes += batch.num_bytes
            ends = shard_bytes >= options.shard_bytes
            yield replace(batch, shard=shard, ends_shard=ends)
            if ends:
                shard, shard_bytes = shard + 1, 0


def _unchanged(source: SourceFile, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of a file, which must be the file of the plan also after the last batch.

    Where it cannot be read, a change of the file is reported as the reason.
    """
    try:
        yield from batches
    except InputError:
        require_unchanged(source)
        raise
    require_unchanged(source)
