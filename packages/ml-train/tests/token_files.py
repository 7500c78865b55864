"""Small .bin/.idx pairs for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ml_data.indexed.writer import IndexedDatasetWriter


def write_tokens(
    prefix: Path, *, lengths: Sequence[int], first: int = 0, dtype: str = "<i4"
) -> str:
    """A pair whose ids count up from `first`, so that a token says where it is from."""
    with IndexedDatasetWriter(prefix, np.dtype(dtype), overwrite=True) as writer:
        ids = np.arange(first, first + sum(lengths))
        writer.add_batch(ids, np.asarray(lengths))
        writer.finalize()
    return str(prefix)


def write_ids(prefix: Path, ids: Sequence[int]) -> str:
    """A pair of one document."""
    with IndexedDatasetWriter(prefix, np.dtype("<i4"), overwrite=True) as writer:
        writer.add_batch(np.asarray(ids), np.asarray([len(ids)]))
        writer.finalize()
    return str(prefix)


def write_documents(prefix: Path, documents: Sequence[Sequence[int]], dtype: str = "<i4") -> str:
    """A pair of the given documents; replaces one that is there."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with IndexedDatasetWriter(prefix, np.dtype(dtype), overwrite=True) as writer:
        ids = np.concatenate([np.asarray(document) for document in documents])
        writer.add_batch(ids, np.asarray([len(document) for document in documents]))
        writer.finalize()
    return str(prefix)
