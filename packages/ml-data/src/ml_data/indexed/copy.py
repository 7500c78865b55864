"""Copy a range of documents from one pair to a writer, in constant memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml_data.errors import FormatError
from ml_data.indexed import layout
from ml_data.indexed.ownership import bin_bytes_of
from ml_data.indexed.pair import read_header, require_pair
from ml_data.indexed.pair_writer import PairWriter

# Sequences that are copied at a time.
_CHUNK = 1 << 18


class IndexFile:
    """The sections of an .idx, read piece by piece: memory stays constant for files of any size."""

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        self.path = layout.idx_path(prefix)
        self.bin_path = layout.bin_path(prefix)
        require_pair(prefix)
        self.dtype, self.num_sequences, marks = read_header(self.path)
        self.num_documents = marks - 1

    def require_whole(self) -> None:
        """Raise FormatError where the .bin does not have the size that the index needs."""
        needed, size = bin_bytes_of(self.path), self.bin_path.stat().st_size
        if size != needed:
            raise FormatError(
                f"{self.bin_path} has {size} bytes, its index needs {needed}: it was cut off, or "
                "the two are not of one pair"
            )

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Lengths in tokens of the sequences `start` to `stop`."""
        return self._read("<i4", layout.HEADER.size, start, stop)

    def pointers(self, start: int, stop: int) -> NDArray[np.int64]:
        """Byte offsets of the sequences `start` to `stop` in the .bin."""
        return self._read("<i8", layout.HEADER.size + 4 * self.num_sequences, start, stop)

    def marks(self, start: int, stop: int) -> NDArray[np.int64]:
        """Sequence indices at which the documents `start` to `stop` begin."""
        return self._read("<i8", layout.HEADER.size + 12 * self.num_sequences, start, stop)

    def byte_of_document(self, document: int) -> int:
        """Byte offset in the .bin at which `document` begins (its size for the one after all)."""
        sequence = int(self.marks(document, document + 1)[0])
        if sequence < self.num_sequences:
            return int(self.pointers(sequence, sequence + 1)[0])
        return self.bin_path.stat().st_size

    def _read(self, dtype: str, base: int, start: int, stop: int) -> NDArray:
        kind = np.dtype(dtype)
        return np.fromfile(
            self.path, kind, max(stop - start, 0), offset=base + start * kind.itemsize
        )


def copy_documents(
    index: IndexFile, writer: PairWriter, start: int = 0, stop: int | None = None
) -> None:
    """Append the documents `start` to `stop` (all by default) of `index` to `writer`."""
    stop = index.num_documents if stop is None else stop
    if index.dtype != writer.dtype:
        raise FormatError(
            f"{index.prefix} holds {index.dtype.name}, the output {writer.dtype.name}: "
            "made with different tokenizers"
        )
    first, last = (int(index.marks(document, document + 1)[0]) for document in (start, stop))
    size = index.dtype.itemsize
    if not 0 <= first <= last <= index.num_sequences:
        raise FormatError(
            f"{index.path}: documents {start} to {stop} have the sequences {first} to {last} of "
            f"{index.num_sequences}: damaged"
        )
    byte = index.byte_of_document(start)
    if not 0 <= byte <= index.bin_path.stat().st_size:
        raise FormatError(f"{index.path}: document {start} lies outside of the .bin: damaged")
    with index.bin_path.open("rb") as tokens:
        tokens.seek(byte)
        for at in range(first, last, _CHUNK):
            end = min(at + _CHUNK, last)
            lengths = index.lengths(at, end)
            ends = np.cumsum(lengths, dtype=np.int64) * size + byte
            # The bytes are copied as a single range. That is right only where the sequences lie one
            # after the other, as all known writers write them.
            if not np.array_equal(index.pointers(at, end), ends - lengths * np.int64(size)):
                raise FormatError(f"{index.path}: sequences {at} to {end} do not follow each other")
            left, byte = int(ends[-1]) - byte, int(ends[-1])
            writer.add_lengths(lengths)
            while left:
                block = tokens.read(min(left, 1 << 22))
                if not block:
                    raise FormatError(f"{index.bin_path} ends too early: truncated")
                writer.add_bytes(block)
                left -= len(block)
    # A mark is a sequence index in its own file: moved by the sequences that come before.
    base = writer.num_sequences - (last - first) - first
    for at in range(start + 1, stop + 1, _CHUNK):
        writer.add_marks(index.marks(at, min(at + _CHUNK, stop + 1)) + base)
