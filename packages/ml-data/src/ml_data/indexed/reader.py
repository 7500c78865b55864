"""Read a .bin/.idx pair through memory maps: opening takes 0.1 ms, and nothing is copied.

On a file system without memory maps the index is read into memory, and a sequence is read from the
file when it is accessed.
"""

from __future__ import annotations

import errno
import operator
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ml_data.errors import FormatError, InputError
from ml_data.indexed import layout
from ml_data.indexed.mapping import map_file
from ml_data.indexed.pair import read_header, require_pair
from ml_data.indexed.prefixes import expanded

# Errors of mmap where the file system has no memory maps. Other errors mean that memory or rights
# are lacking.
_NO_MAPS = {errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class IndexedDataset:
    """The sequences of a .bin/.idx pair, as read-only numpy views.

    Its pickle is its path: a worker process maps the files again. Raises FormatError on opening
    where the files are damaged or not of one pair.
    """

    prefix: str
    dtype: np.dtype
    sequence_lengths: NDArray[np.int32]
    """Lengths in tokens [sequences]."""
    sequence_pointers: NDArray[np.int64]
    """Byte offsets in the .bin [sequences]."""
    document_indices: NDArray[np.int64]
    """Sequences at which documents begin, and the end of the last [documents + 1]."""

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = expanded(prefix)
        # Absolute, as a worker process that unpickles the dataset may have another current folder.
        self._absolute = os.path.abspath(self.prefix)
        require_pair(self.prefix)
        self._open()

    def _open(self) -> None:
        idx, bin_ = layout.idx_path(self._absolute), layout.bin_path(self._absolute)
        self.dtype, num_sequences, num_marks = read_header(idx)
        raw = self._map(idx)
        if raw is None:
            raw = np.fromfile(idx, np.uint8)
            raw.flags.writeable = False
        ends = np.cumsum([layout.HEADER.size, 4 * num_sequences, 8 * num_sequences])
        self.sequence_lengths = raw[ends[0] : ends[1]].view("<i4")
        self.sequence_pointers = raw[ends[1] : ends[2]].view("<i8")
        self.document_indices = raw[ends[2] :].view("<i8")
        self._check_ends(bin_)
        tokens = self._map(bin_)
        self._tokens = None if tokens is None else tokens.view(self.dtype)

    def _map(self, path: Path) -> NDArray[np.uint8] | None:
        """The bytes of `path`; None where its file system has no maps."""
        try:
            return map_file(path)
        except OSError as error:
            if error.errno not in _NO_MAPS:
                raise InputError(
                    f"{path} cannot be mapped into memory: {error.strerror}. It needs the right to "
                    "read it and as much address space as it has bytes (ulimit -v)"
                ) from error
            warnings.warn(
                f"{path} cannot be mapped into memory ({error.strerror}): sequences are read from "
                "the file, which is slower",
                stacklevel=5,
            )
            return None

    def _check_ends(self, bin_: Path) -> None:
        """The last sequence ends where the .bin does, the last document where the sequences do."""
        size, needed = bin_.stat().st_size, 0
        if len(self):
            last = int(self.sequence_lengths[-1]) * self.dtype.itemsize
            needed = int(self.sequence_pointers[-1]) + last
        if size % self.dtype.itemsize:
            raise FormatError(f"{bin_} has {size} bytes, not a multiple of {self.dtype.itemsize}")
        if size != needed:
            raise FormatError(
                f"{bin_} holds {size // self.dtype.itemsize} tokens, but its index describes "
                f"{needed // self.dtype.itemsize}: it was cut off, or the two are not of one pair"
            )
        self._num_tokens = size // self.dtype.itemsize
        first, last = int(self.document_indices[0]), int(self.document_indices[-1])
        if (first, last) != (0, len(self)):
            raise FormatError(
                f"{layout.idx_path(self.prefix)}: documents reach from sequence {first} to {last} "
                f"of {len(self)}: damaged"
            )

    def __getstate__(self) -> dict[str, str]:
        return {"prefix": self.prefix, "_absolute": self._absolute}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
        require_pair(self._absolute)
        self._open()

    def __len__(self) -> int:
        return len(self.sequence_lengths)

    @property
    def num_documents(self) -> int:
        """Number of documents, empty ones included."""
        return len(self.document_indices) - 1

    @property
    def num_tokens(self) -> int:
        """Number of ids in the .bin."""
        return self._num_tokens

    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.integer]]: ...
    @overload
    def __getitem__(self, index: int | np.integer) -> NDArray[np.integer]: ...
    def __getitem__(self, index: Any) -> NDArray[np.integer] | list[NDArray[np.integer]]:
        """The ids of sequence `index`, a read-only view [length]; of a slice, a list of them.

        As in Megatron's class, a negative index counts from the end, and a slice has no step.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"a slice of sequences must have the step 1, not {step}")
            return [self[number] for number in range(start, stop)]
        return self.get(index)

    def get(
        self, index: int | np.integer, offset: int = 0, length: int | None = None
    ) -> NDArray[np.integer]:
        """`length` ids (all that follow by default) of sequence `index`, from `offset` on.

        Raises IndexError for a sequence, ValueError for a range that is not there.
        """
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sequence {number} of {self.prefix}: it has {len(self)}")
        size = int(self.sequence_lengths[number])
        if size < 0:
            raise FormatError(f"{self.prefix}.idx: sequence {number} has {size} tokens: damaged")
        count = size - offset if length is None else length
        if not 0 <= offset <= offset + count <= size:
            wanted = "the ids" if length is None else f"{length} ids"
            raise ValueError(
                f"{wanted} from {offset} on of sequence {number}: it has {size} of them"
            )
        # Checked here for the accessed sequence: checking all of them would read the whole index.
        start, rest = divmod(int(self.sequence_pointers[number]), self.dtype.itemsize)
        if rest or start < 0 or start + size > self._num_tokens:
            raise FormatError(
                f"{self.prefix}.idx: sequence {number} lies outside of the .bin: damaged. "
                "ml-data verify tells more"
            )
        return self._read(start + offset, count)

    def _read(self, start: int, count: int) -> NDArray[np.integer]:
        if self._tokens is not None:
            return self._tokens[start : start + count]
        path, offset = layout.bin_path(self._absolute), start * self.dtype.itemsize
        ids: NDArray[np.integer] = np.fromfile(path, self.dtype, count, offset=offset)
        if len(ids) != count:
            raise FormatError(f"{path} was cut off since it was opened")
        ids.flags.writeable = False
        return ids

    def __iter__(self) -> Iterator[NDArray[np.integer]]:
        return (self[index] for index in range(len(self)))

    @property
    def tokens(self) -> NDArray[np.integer]:
        """All ids in file order, a read-only view [num_tokens]; read where there are no maps."""
        return self._read(0, self._num_tokens)
