"""Plan a run: everything that can be checked before the first row is read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ml_data.documents.batch import Segment
from ml_data.documents.extract import WantedTexts
from ml_data.documents.schema import StatedSize, check_sources, column_names
from ml_data.documents.segments import segments_of
from ml_data.documents.sources import LeftOutFile, SourceFile, resolve
from ml_data.documents.sources.names import files_of_run
from ml_data.documents.template import get_template
from ml_data.errors import TokenizerError, UsageError
from ml_data.indexed.layout import best_dtype
from ml_data.notices import Notice
from ml_data.pipeline.encode import EncodingJob
from ml_data.pipeline.options import TokenizeOptions, flag_of
from ml_data.tokenizers import Tokenizer, load_tokenizer
from ml_data.tokenizers.load import ENGINES, TOKENIZER_TYPES
from ml_data.tokenizers.special_tokens import explain_frame


@dataclass(frozen=True, kw_only=True)
class TokenizePlan:
    """What a run reads, what it encodes with, and where it writes."""

    options: TokenizeOptions
    sources: list[SourceFile]
    left_out: list[LeftOutFile]
    sizes: list[StatedSize]
    segments: list[Segment]
    tokenizer: Tokenizer
    job: EncodingJob
    columns: list[str]
    prefixes: list[str]
    work: Path

    def identity(self) -> dict[str, object]:
        """What must be equal for a run to go on from a journal, or to keep a finished output."""
        return {
            "options": self.options.that_shape_the_output(),
            "inputs": [
                [source.name, source.num_bytes, source.modified_ns] for source in self.sources
            ],
            "tokenizer": [
                self.tokenizer.fingerprint,
                self.tokenizer.vocab_size,
                self.job.eod_id,
                self.job.bos_id,
            ],
            "task": [self.options.task_index, self.options.num_tasks],
        }

    def identity_digest(self) -> str:
        """sha256 of the identity; the libraries' versions are not part of it."""
        return hashlib.sha256(json.dumps(self.identity()).encode()).hexdigest()


def task_prefix(prefix: str, index: int, count: int) -> str:
    """Prefix of the outputs of a task; that of the run where it has a single task."""
    return prefix if count == 1 else f"{prefix}.task-{index:05}-of-{count:05}"


def prefix_of_key(prefix: str, key: str) -> str:
    """P_key_document."""
    return f"{prefix}_{key}_document"


def make_plan(options: TokenizeOptions, notice: Notice) -> TokenizePlan:
    """Find the inputs, load the tokenizer, check that they fit."""
    listing = resolve(options.input, files_of_run(options.output_prefix, options.json_keys))
    for text in listing.notices():
        notice(text)
    sources = listing.sources
    if os.path.isdir(options.output_prefix):
        notice(
            f"{options.output_prefix} is a folder, too: the output lies beside it, its names begin "
            f"with {options.output_prefix}_"
        )
    tokenizer = _load_tokenizer(options, notice)
    options = _with_default_template(options, sources, notice)
    template = get_template(options.template) if options.template else None
    wanted = WantedTexts(keys=options.json_keys, template=template)
    tolerate = options.on_error != "stop"
    sizes = check_sources(sources, wanted, tolerate=tolerate, notice=notice)
    prefix = task_prefix(options.output_prefix, options.task_index, options.num_tasks)
    return TokenizePlan(
        options=options,
        sources=sources,
        left_out=listing.left_out,
        sizes=sizes,
        segments=segments_of(sources, sizes, options.task_index, options.num_tasks),
        tokenizer=tokenizer,
        job=_job_of(options, tokenizer),
        columns=wanted.columns,
        prefixes=[prefix_of_key(prefix, key) for key in options.json_keys],
        work=Path(f"{prefix}.work"),
    )


def _load_tokenizer(options: TokenizeOptions, notice: Notice) -> Tokenizer:
    """The tokenizer of the options, which has the special tokens that they ask for."""
    _check_names(options)
    tokenizer = load_tokenizer(
        options.tokenizer_name_or_path,
        tokenizer_type=options.tokenizer_type,
        engine=options.engine,
        parse_special_tokens=options.parse_special_tokens,
        eod_token=options.eod_token,
        eod_id=options.eod_id,
    )
    _check_special_tokens(options, tokenizer, notice)
    return tokenizer


def _job_of(options: TokenizeOptions, tokenizer: Tokenizer) -> EncodingJob:
    return EncodingJob(
        options=options,
        tokenizer_path=tokenizer.path,
        fingerprint=tokenizer.fingerprint,
        dtype=best_dtype(tokenizer.vocab_size).str,
        eod_id=tokenizer.eod_id if options.append_eod else None,
        bos_id=tokenizer.bos_id if options.add_bos else None,
    )


def _check_names(options: TokenizeOptions) -> None:
    """UsageError for an engine or a type of tokenizer that does not exist."""
    # Here rather than in the options, where it would bring the tokenizers to every --help.
    for name, given, known in (
        ("engine", options.engine, ENGINES),
        ("tokenizer_type", options.tokenizer_type, TOKENIZER_TYPES),
    ):
        if given not in known:
            raise UsageError(f"{flag_of(name)} {given}: choose from {', '.join(known)}")


def _check_special_tokens(options: TokenizeOptions, tokenizer: Tokenizer, notice: Notice) -> None:
    """Refuse a run that needs a token which is not known; tell what is done with the others."""
    if options.append_eod and tokenizer.eod_id is None:
        raise TokenizerError(f"--append-eod: {tokenizer.eod_fault}")
    if options.add_bos and tokenizer.bos_id is None:
        raise TokenizerError(f"--add-bos: {tokenizer.bos_fault}")
    for text in tokenizer.notices:
        notice(text)
    if tokenizer.eod_fault and tokenizer.names_eod:
        notice(f"the manifest names no end-of-document id: {tokenizer.eod_fault}")
    around = explain_frame(tokenizer, add_bos=options.add_bos)
    if around:
        notice(around)


def _with_default_template(
    options: TokenizeOptions, sources: list[SourceFile], notice: Notice
) -> TokenizeOptions:
    """The options with `--template alpaca` for data that has Alpaca's columns and no `text`."""
    if options.template or options.json_keys != ("text",):
        return options
    names = column_names(next(source for source in sources if source.num_bytes))
    if "text" in names or not {"instruction", "input", "output"} <= set(names):
        return options
    notice("no column 'text', but instruction, input and output: using --template alpaca")
    return replace(options, template="alpaca")
