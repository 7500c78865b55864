"""Append to the temporary files of a .bin/.idx pair, and seal them under their temporary names.

Lengths and document marks go to side files. So memory does not grow with the number of documents,
and a later process can go on from any point at which the files were synced.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ml_data.errors import OutputError
from ml_data.indexed import layout
from ml_data.indexed.files import (
    BLOCK_BYTES,
    FileFacts,
    checksum,
    close_as_it_is,
    reporting_output,
    sync_file,
)
from ml_data.indexed.publication import temporary_path
from ml_data.notices import Notice, ignore_notice

LONGEST = int(np.iinfo(np.int32).max)
"""Most tokens of a sequence: the .idx keeps its length in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class WriterState:
    """How far a writer has got. The sizes of its files follow from these counts."""

    num_sequences: int = 0
    num_documents: int = 0
    num_tokens: int = 0

    def to_dict(self) -> dict[str, int]:
        """For a journal."""
        return asdict(self)

    def file_bytes(self, dtype: np.dtype) -> dict[str, int]:
        """Sizes of the temporary files at this point, by the names in `temporary_files`."""
        return {
            "bin": self.num_tokens * dtype.itemsize,
            "lengths": 4 * self.num_sequences,
            "documents": 8 * self.num_documents,
        }


def temporary_files(work: Path, prefix: str | Path) -> dict[str, Path]:
    """The files that are appended to: ids, sequence lengths, document marks."""
    return {
        name: temporary_path(work, prefix, f".{name}") for name in ("bin", "lengths", "documents")
    }


class PairWriter:
    """The temporary files of the pair `prefix` in the folder `work`, which must be there.

    With `resume`, the files of an earlier process are cut back to that point and appended to.
    """

    def __init__(
        self,
        prefix: str | Path,
        dtype: np.dtype | type,
        work: Path,
        *,
        resume: WriterState | None = None,
        notice: Notice = ignore_notice,
    ) -> None:
        self.prefix, self.dtype, self._notice = Path(prefix), layout.token_dtype(dtype), notice
        self._highest = np.iinfo(self.dtype).max
        done = resume or WriterState()
        self.num_sequences = done.num_sequences
        self.num_documents = done.num_documents
        self.num_tokens = done.num_tokens
        self._paths = temporary_files(work, prefix)
        self.temporary_idx = temporary_path(work, prefix, ".idx")
        self._files: dict[str, BinaryIO] = {}
        sizes = done.file_bytes(self.dtype)
        with reporting_output(f"{prefix}.bin"):
            for name, path in self._paths.items():
                self._files[name] = self._open(path, sizes[name] if resume else None)
            # A hash cannot be stored and continued, so a resumed .bin is read once.
            self._digest = checksum(self._paths["bin"], sizes["bin"])

    @staticmethod
    def _open(path: Path, size: int | None) -> BinaryIO:
        if size is None:
            return path.open("wb")
        os.truncate(path, size)
        return path.open("ab")

    @property
    def written(self) -> WriterState:
        """How far this writer has got."""
        return WriterState(
            num_sequences=self.num_sequences,
            num_documents=self.num_documents,
            num_tokens=self.num_tokens,
        )

    def add_batch(self, ids: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        """Append a document per entry of `lengths` [documents]; `ids` is flat [sum(lengths)].

        An empty document has no sequence; its entry in the document index repeats.
        """
        self._add(ids, lengths[lengths > 0], np.cumsum(lengths > 0, dtype="<i8"))

    def _add(
        self, ids: NDArray[np.integer], lengths: NDArray[np.integer], ends: NDArray[np.int64]
    ) -> None:
        self._refuse_ids(ids)
        data = np.ascontiguousarray(ids, dtype=self.dtype).data
        with reporting_output(f"{self.prefix}.bin"):
            self._files["bin"].write(data)
            self._files["lengths"].write(np.ascontiguousarray(lengths, "<i4").data)
            self._files["documents"].write((ends + self.num_sequences).data)
        self._digest.update(data)
        self.num_sequences += len(lengths)
        self.num_documents += len(ends)
        self.num_tokens += len(ids)

    def _refuse_ids(self, ids: NDArray[np.integer]) -> None:
        """OutputError for ids that the type does not hold, and for negative ones."""
        # Ids that are of the unsigned type already cannot be out of its range.
        unsigned = self.dtype.kind == "u" and ids.dtype == self.dtype
        if unsigned or not len(ids):
            return
        low, high = int(ids.min()), int(ids.max())
        if high > self._highest or low < 0:
            raise OutputError(
                f"token ids from {low} to {high} do not fit {self.dtype.name} (0 to "
                f"{self._highest}): the tokenizer's vocabulary size is smaller than its ids"
            )

    def add_bytes(self, block: bytes) -> None:
        """Append ids as they lie in another .bin of the same dtype; for copying."""
        with reporting_output(f"{self.prefix}.bin"):
            self._files["bin"].write(block)
        self._digest.update(block)
        self.num_tokens += len(block) // self.dtype.itemsize

    def add_lengths(self, lengths: NDArray[np.int32]) -> None:
        """Append sequences whose ids come by `add_bytes`."""
        with reporting_output(f"{self.prefix}.idx"):
            self._files["lengths"].write(np.ascontiguousarray(lengths, "<i4").data)
        self.num_sequences += len(lengths)

    def add_marks(self, marks: NDArray[np.int64]) -> None:
        """Append documents, given by the sequence indices in this file at which they end."""
        with reporting_output(f"{self.prefix}.idx"):
            self._files["documents"].write(np.ascontiguousarray(marks, "<i8").data)
        self.num_documents += len(marks)

    def sync(self) -> None:
        """Make everything so far durable, so that a later process can resume from `written`."""
        with reporting_output(f"{self.prefix}.bin"):
            for file in self._files.values():
                sync_file(file, self._notice)

    def seal(self) -> dict[str, FileFacts]:
        """Write the .idx under its temporary name and sync all; facts of `.bin` and `.idx`."""
        with reporting_output(f"{self.prefix}.idx"):
            for file in self._files.values():
                file.flush()
            index = _HashingFile(self.temporary_idx, self._notice)
            header = layout.pack_header(self.dtype, self.num_sequences, self.num_documents + 1)
            index.write(header)
            index.copy(self._paths["lengths"])
            self._write_pointers(index)
            index.write(np.zeros(1, "<i8").data)
            index.copy(self._paths["documents"])
            facts = index.close()
            sync_file(self._files["bin"], self._notice)
            self.close()
        size = self.num_tokens * self.dtype.itemsize
        return {
            ".bin": FileFacts(num_bytes=size, sha256=self._digest.hexdigest()),
            ".idx": facts,
        }

    def _write_pointers(self, index: _HashingFile) -> None:
        offset = 0
        with self._paths["lengths"].open("rb") as lengths:
            while block := lengths.read(BLOCK_BYTES):
                sizes = np.frombuffer(block, "<i4").astype("<i8") * self.dtype.itemsize
                ends = np.cumsum(sizes) + offset
                index.write((ends - sizes).astype("<i8").data)
                offset = int(ends[-1])

    def close(self) -> None:
        """Close the files as they are, to go on later with `resume`."""
        for file in self._files.values():
            close_as_it_is(file)


class _HashingFile:
    """A file that is hashed as it is written, so that its checksum takes no second reading."""

    def __init__(self, path: Path, notice: Notice) -> None:
        self._file, self._size, self._digest = path.open("wb"), 0, checksum(path, 0)
        self._notice = notice

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += memoryview(data).nbytes

    def copy(self, path: Path) -> None:
        with path.open("rb") as source:
            while block := source.read(BLOCK_BYTES):
                self.write(block)

    def close(self) -> FileFacts:
        sync_file(self._file, self._notice)
        self._file.close()
        return FileFacts(num_bytes=self._size, sha256=self._digest.hexdigest())
