"""Loaders of short sequences for the tests of the data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from ml_train.config.sections.data import DataSection
from ml_train.data.demand import Demand, ValidationPosition
from ml_train.data.loaders import DataLoaders, build_dataloaders, ignore
from ml_train.data.manifest import ExpectedTokens
from ml_train.data.request import DataRequest
from ml_train.data.stream import RankShare

SEQUENCE = 16


def request(
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
) -> DataRequest:
    """Sequences of 16 tokens in global batches of 8, unless told otherwise."""
    return DataRequest(
        section=data,
        demand=Demand(total=samples, consumed=(consumed, consumed_valid, 0), begun_with=begun_with),
        expected=ExpectedTokens(
            vocab_size=vocab_size, eod_id=eod_id, tokenizer_fingerprint=fingerprint
        ),
        **{"sequence_length": SEQUENCE, "global_batch_size": 8, "seed": 7, **changes},
    )


def loaders(
    data: DataSection,
    *,
    micro_batch_size: int = 2,
    dp_rank: int = 0,
    dp_size: int = 1,
    say: Callable[[str], None] = ignore,
    warn: Callable[[str], None] = ignore,
    validation: ValidationPosition | None = None,
    **changes: Any,
) -> DataLoaders:
    """Micro batches of 2 on a single rank, unless told otherwise; changes: of request()."""
    share = RankShare(micro_batch_size=micro_batch_size, dp_rank=dp_rank, dp_size=dp_size)
    wanted = request(data, validation=validation, **changes)
    return build_dataloaders(wanted, share, say=say, warn=warn)


def firsts(stream: Any, count: int) -> list[int]:
    """The first token of each of the next `count` sequences."""
    rows: list[int] = []
    while len(rows) < count:
        rows += next(stream)["tokens"][:, 0].tolist()
    return rows


def sequences(stream: Any, count: int) -> list[tuple[int, ...]]:
    """The next `count` sequences, of micro batches of 2."""
    return [tuple(row.tolist()) for batch in islice(stream, count // 2) for row in batch["tokens"]]
