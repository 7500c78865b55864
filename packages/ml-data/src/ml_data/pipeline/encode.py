"""Encode a batch in a worker: texts, ids, end-of-document ids, and the rows set aside."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_data.documents.batch import Batch
from ml_data.documents.extract import TOO_LONG, ExtractedTexts, QuarantineRow, bad_row, extract
from ml_data.documents.template import get_template
from ml_data.errors import TokenizerError
from ml_data.pipeline.options import TokenizeOptions
from ml_data.tokenizers import Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class EncodingJob:
    """What a worker has to know: the options, and what the run worked out from them."""

    options: TokenizeOptions
    tokenizer_path: str
    """The file that the run loaded, where the options name a folder."""
    fingerprint: str
    """Of the tokenizer that the run began with. The manifest states it."""
    dtype: str
    eod_id: int | None
    """The id that ends documents; None writes none."""
    bos_id: int | None
    """The id that begins documents; None writes none."""

    def to_json(self) -> dict[str, object]:
        """For a worker in another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EncodingJob:
        """The job that `to_json` made these values of."""
        return cls(**{**values, "options": TokenizeOptions(**values["options"])})

    def load(self) -> Tokenizer:
        """The tokenizer of this job; TokenizerError when its files are no longer the same."""
        tokenizer = load_tokenizer(
            self.tokenizer_path,
            tokenizer_type=self.options.tokenizer_type,
            engine=self.options.engine,
            parse_special_tokens=self.options.parse_special_tokens,
        )
        if tokenizer.fingerprint != self.fingerprint:
            raise TokenizerError(
                f"{self.tokenizer_path} on {platform.node()} is another tokenizer than the one "
                "that the run began with: its files changed, or another machine has others"
            )
        return tokenizer


@dataclass
class EncodedBatch:
    """The result of a batch for an output: `ids` [sum(lengths)], `lengths` [documents written]."""

    ids: NDArray[np.integer]
    lengths: NDArray[np.int32]
    num_empty: int = 0
    tokens_dropped: int = 0
    bad: list[QuarantineRow] = field(default_factory=list)


def encode_batch(batch: Batch, job: EncodingJob, tokenizer: Tokenizer) -> list[EncodedBatch]:
    """A result per key of the job."""
    options = job.options
    template = get_template(options.template) if options.template else None
    return [_encode(extract(batch, key, template), job, tokenizer) for key in options.json_keys]


def _encode(texts: ExtractedTexts, job: EncodingJob, tokenizer: Tokenizer) -> EncodedBatch:
    ids: NDArray[np.integer]
    ids, lengths = tokenizer.encode_arrow(texts.values)
    lengths = np.asarray(lengths, np.int32)
    dropped, bad = 0, texts.bad
    if job.options.max_document_tokens is not None:
        long = lengths > job.options.max_document_tokens
        if long.any():
            bad = sorted(bad + _too_long(texts, lengths, long, job), key=lambda row: row["row"])
            dropped = int(lengths[long].sum(dtype=np.int64))
            ids, lengths = ids[~np.repeat(long, lengths)], lengths[~long]
    filled = lengths > 0
    ids, lengths = _framed(ids, lengths, filled, job)
    dtype = np.dtype(job.dtype)
    if len(ids) and (int(ids.max()) > np.iinfo(dtype).max or int(ids.min()) < 0):
        raise TokenizerError(
            f"{tokenizer.path}: ids from {int(ids.min())} to {int(ids.max())} do not fit "
            f"{dtype.name}: the vocabulary size {tokenizer.vocab_size} of the tokenizer is wrong"
        )
    return EncodedBatch(
        ids=ids.astype(dtype, copy=False),
        lengths=lengths,
        num_empty=int(len(filled) - filled.sum()),
        tokens_dropped=dropped,
        bad=bad,
    )


def _framed(
    ids: NDArray[np.integer],
    lengths: NDArray[np.int32],
    filled: NDArray[np.bool_],
    job: EncodingJob,
) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
    """(ids, lengths) with the ids of the job around each document that is not empty."""
    # np.insert takes positions in the array as it is before: the ends of all documents at once.
    if job.eod_id is not None:
        ids = np.insert(ids, np.cumsum(lengths, dtype=np.int64)[filled], job.eod_id)
        lengths = lengths + filled.astype(np.int32)
    if job.bos_id is not None:
        starts = np.cumsum(lengths, dtype=np.int64)[filled] - lengths[filled]
        ids = np.insert(ids, starts, job.bos_id)
        lengths = lengths + filled.astype(np.int32)
    return ids, lengths


def _too_long(
    texts: ExtractedTexts, lengths: NDArray[np.int32], long: NDArray[np.bool_], job: EncodingJob
) -> list[QuarantineRow]:
    limit = job.options.max_document_tokens
    return [
        bad_row(
            texts.rows[index],
            TOO_LONG,
            f"{lengths[index]} tokens, the limit is {limit}",
            texts.values[index].as_py(),
        )
        for index in np.flatnonzero(long).tolist()
    ]
