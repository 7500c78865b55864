"""Loaders of short sequences for the tests of the data."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ml_train.config.sections.data import DataSection
from ml_train.data.loaders import DataLoaders, TokenFacts, build_dataloaders
from ml_train.data.resume import Demand

SEQUENCE = 16


def loaders(
    data: DataSection,
    *,
    samples: tuple[int, int, int] = (64, 0, 0),
    consumed: int = 0,
    consumed_valid: int = 0,
    begun_with: tuple[int, int, int] | None = None,
    vocab_size: int | None = 10_000,
    eod_id: int | None = None,
    fingerprint: str | None = None,
    **changes: Any,
) -> DataLoaders:
    """Micro batches of 2 in global batches of 8, on one rank, unless told otherwise."""
    settings = {
        "sequence_length": SEQUENCE, "micro_batch_size": 2, "global_batch_size": 8, "dp_rank": 0,
        "dp_size": 1, "seed": 7,
    }  # fmt: skip
    return build_dataloaders(
        data=data,
        demand=Demand(total=samples, consumed=(consumed, consumed_valid, 0), begun_with=begun_with),
        facts=TokenFacts(vocab_size=vocab_size, eod_id=eod_id, tokenizer_fingerprint=fingerprint),
        **{**settings, **changes},
    )


def firsts(stream: Any, count: int) -> list[int]:
    """The first token of each of the next `count` sequences."""
    rows: list[int] = []
    while len(rows) < count:
        rows += next(stream)["tokens"][:, 0].tolist()
    return rows


def sequences(stream: Any, count: int) -> list[tuple[int, ...]]:
    """The next `count` sequences, of micro batches of 2."""
    return [tuple(row.tolist()) for batch in islice(stream, count // 2) for row in batch["tokens"]]
