"""Token files, manifests, tokenizer and split, by the code with which a start opens its data.

That code raises its first error. Where it does, every prefix and every split is looked at alone, so
that all of them are told.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ml_data.errors import MlDataError
from ml_data.indexed.files import checksum
from ml_data.indexed.manifest import read_manifest
from ml_data.indexed.reader import IndexedDataset
from ml_train.config.sections.data import DataSection, parse_blend
from ml_train.config.sections.tokenizer import TokenizerSection
from ml_train.data.files import read_token_files
from ml_train.data.manifest import check_manifests, tokenizer_facts
from ml_train.data.origin import check_ids
from ml_train.data.request import DataRequest
from ml_train.data.selection import selected_parts
from ml_train.data.settle import SettledOrders, settle_orders
from ml_train.errors import DataError
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.indexes import repetitions, room
from ml_train.rehearsal.job import Job

SUBJECT = "data"
MOST_BYTES_READ = 4 << 30
"""Of a pair that is read as a whole, which takes some ten seconds. Training reads 64 blocks at its
start and meets a wrong id elsewhere only at the step that takes it."""

_WHOLE = ("1,0,0", "0,1,0", "0,0,1")
_CHUNK_TOKENS = 1 << 22
_TOKENIZE_AGAIN = "Tokenize again with the model's own tokenizer, or copy the files again."


def check(job: Job) -> Iterator[Finding]:
    """Tokenizer, then what a start settles, then what it would meet later."""
    if not job.loaded.config.data.is_given:
        yield wrong(
            SUBJECT,
            "No data is named, so that the job would end at its start.",
            fix="Give --data-path PREFIX (what ml-data tokenize wrote), or --mock-data.",
            severity="warning",
        )
        return
    yield from _tokenizer(job)
    request = request_of(job)
    try:
        settled = settle_orders(request)
    except (DataError, OSError) as error:
        findings = list(_alone(request))
        texts = [finding.what for finding in findings]
        whole = wrong(SUBJECT, error, fix=_TOKENIZE_AGAIN)
        # What was wrong with a prefix alone is the same sentence.
        yield from findings if whole.what in texts else [whole, *findings]
        return
    for text in settled.warnings:
        yield wrong(
            SUBJECT,
            text,
            fix="Give each file once, and go on with the order that the checkpoint has.",
            severity="warning",
        )
    yield from _whole_files(job, request, settled)
    yield from repetitions(request, settled.orders)
    yield from room(request, settled)
    for text in settled.notes:
        yield sound(SUBJECT, text)


def request_of(job: Job) -> DataRequest:
    """What the run asks of its data; a tokenizer that cannot be read counts as absent."""
    config, model = job.loaded.config, job.loaded.model
    try:
        return DataRequest.of(config, model, job.global_batch_size, job.state)
    except DataError:
        config = dataclasses.replace(config, tokenizer=TokenizerSection())
        return DataRequest.of(config, model, job.global_batch_size, job.state)


def _tokenizer(job: Job) -> Iterator[Finding]:
    try:
        facts = tokenizer_facts(job.loaded.config.tokenizer)
    except DataError as error:
        yield wrong(SUBJECT, error, fix="Give the folder or the file of the model's tokenizer.")
        return
    if facts is None:
        return
    vocab_size = job.loaded.model.vocab_size
    path = job.loaded.config.tokenizer.path
    if facts.vocab_size > vocab_size:
        yield wrong(
            SUBJECT,
            f"The tokenizer {path} has {facts.vocab_size} ids, and the model only {vocab_size}: it "
            "is another model's.",
            fix="Give the model's own tokenizer, or --model-override vocab_size="
            f"{facts.vocab_size} for a model that begins from scratch.",
        )
    elif 2 * facts.vocab_size < vocab_size:
        yield wrong(
            SUBJECT,
            f"The tokenizer {path} has {facts.vocab_size} ids, less than half of the model's "
            f"{vocab_size}: it may be another model's.",
            fix="Give the model's own tokenizer.",
            severity="warning",
        )
    else:
        text = f"the tokenizer's {facts.vocab_size} ids fit the model's {vocab_size}"
        yield sound(SUBJECT, text)
    if facts.eod_id is None:
        yield wrong(
            SUBJECT,
            f"The tokenizer {path} has no end-of-document id.",
            fix="Give a tokenizer with such an id, by which documents are told apart.",
            severity="warning",
        )


def _alone(request: DataRequest) -> Iterator[Finding]:
    """What is wrong with each prefix, and with each split of each sound prefix."""
    section = request.section
    for number, words in enumerate(_words(section)):
        for prefix in dict.fromkeys(parse_blend(words, "--data-path")[0]):
            error = _error_of_prefix(prefix, request)
            if error is not None:
                yield wrong(SUBJECT, error, fix=_TOKENIZE_AGAIN)
                continue
            # --data-path serves all splits, the other flags the split of their number.
            splits = range(3) if section.data_path else (number,)
            for split in splits:
                yield from _split_alone(split, prefix, request)


def _words(section: DataSection) -> Sequence[tuple[str, ...]]:
    if section.data_path:
        return (section.data_path,)
    return (section.train_data_path, section.valid_data_path, section.test_data_path)


def _error_of_prefix(prefix: str, request: DataRequest) -> Exception | None:
    try:
        check_manifests(DataSection(data_path=(prefix,)), request.expected)
        read_token_files(prefix, vocab_size=request.expected.vocab_size)
    except (DataError, OSError) as error:
        return error
    return None


def _split_alone(split: int, prefix: str, request: DataRequest) -> Iterator[Finding]:
    """Whether the split has documents of this prefix."""
    train, valid, test = (
        total if number == split else 0 for number, total in enumerate(request.demand.total)
    )
    demand = dataclasses.replace(request.demand, total=(train, valid, test))
    # A prefix of a split's own flag serves it as a whole.
    shares = request.section.split if request.section.data_path else _WHOLE[split]
    section = DataSection(data_path=(prefix,), split=shares)
    try:
        selected_parts(dataclasses.replace(request, section=section, demand=demand))
    except (DataError, OSError) as error:
        yield wrong(SUBJECT, error, fix="Give the split a larger share of the documents.")


def _whole_files(job: Job, request: DataRequest, settled: SettledOrders) -> Iterator[Finding]:
    """Every id of the files, and their checksums, where they are small enough to be read."""
    for prefix in dict.fromkeys(part.prefix for order in settled.orders for part in order.parts):
        tokens = IndexedDataset(prefix)
        num_bytes = tokens.num_tokens * tokens.dtype.itemsize
        if num_bytes > MOST_BYTES_READ:
            text = f"{prefix}: 64 blocks were read; ml-data verify {prefix} reads all of it"
            yield sound(SUBJECT, text)
            continue
        job.progress(f"reading {prefix}")
        try:
            for first in range(0, tokens.num_tokens, _CHUNK_TOKENS):
                check_ids(
                    np.asarray(tokens.tokens[first : first + _CHUNK_TOKENS]),
                    prefix=prefix,
                    first_token=first,
                    vocab_size=request.expected.vocab_size,
                )
            yield from _checksums(prefix)
        except (DataError, OSError) as error:
            yield wrong(SUBJECT, error, fix=_TOKENIZE_AGAIN)


def _checksums(prefix: str) -> Iterator[Finding]:
    """A file that was changed after it was made, and kept its size."""
    try:
        manifest = read_manifest(prefix)
    except MlDataError:
        return  # a start refuses it: settle_orders has told it
    for name, entry in manifest.files.items() if manifest else ():
        path = Path(prefix).parent / Path(name).name
        if path.is_file() and checksum(path).hexdigest() != entry.sha256:
            yield wrong(
                SUBJECT,
                f"{path} has another checksum than its manifest: it was changed after it was made.",
                fix=_TOKENIZE_AGAIN,
            )
