"""Write a .bin/.idx pair: temporary names, fsync, rename; the .idx, which makes it valid, last.

Lengths and document marks are kept in side files, so that memory does not grow with the number
of documents, and the writer can go on from any point at which it was synced.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
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
    publish,
    reporting_output,
    sync_file,
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """How far a writer has got; the sizes of its files follow from it."""

    num_sequences: int = 0
    num_documents: int = 0
    num_tokens: int = 0

    def to_dict(self) -> dict[str, int]:
        """For a journal."""
        return asdict(self)


class IndexedDatasetWriter:
    """Append sequences and document ends; `finalize` gives the pair its final names."""

    def __init__(
        self,
        prefix: str | Path,
        dtype: np.dtype,
        *,
        work_prefix: str | Path | None = None,
        resume: Written | None = None,
    ) -> None:
        """`work_prefix` is where the temporary files lie (the prefix itself by default).

        With `resume`, those files are cut back to that point and writing goes on from there.
        """
        self.prefix, self.dtype = Path(prefix), np.dtype(dtype)
        self._highest = np.iinfo(self.dtype).max
        done = resume or Written()
        self.num_sequences = done.num_sequences
        self.num_documents = done.num_documents
        self.num_tokens = done.num_tokens
        work = work_prefix or prefix
        self._paths = {name: Path(f"{work}.{name}.tmp") for name in ("bin", "lengths", "documents")}
        self.temporary_idx = Path(f"{work}.idx.tmp")
        self._files: dict[str, BinaryIO] = {}
        sizes = {
            "bin": done.num_tokens * self.dtype.itemsize,
            "lengths": 4 * done.num_sequences,
            "documents": 8 * done.num_documents,
        }
        with reporting_output(f"{prefix}.bin"):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            for name, path in self._paths.items():
                self._files[name] = self._open(path, sizes[name] if resume else None)
        self._digest = checksum(self._paths["bin"], sizes["bin"])

    def _open(self, path: Path, size: int | None) -> BinaryIO:
        if size is None:
            return path.open("wb")
        if not path.exists() or path.stat().st_size < size:
            raise OutputError(f"{path} is shorter than its journal says ({size} bytes)")
        os.truncate(path, size)
        return path.open("ab")

    @property
    def written(self) -> Written:
        """How far this writer has got."""
        return Written(
            num_sequences=self.num_sequences,
            num_documents=self.num_documents,
            num_tokens=self.num_tokens,
        )

    @property
    def temporary_bin(self) -> Path:
        """Where the ids lie until they get their final name."""
        return self._paths["bin"]

    def add_batch(self, ids: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        """Append one document per entry of `lengths` [documents]; `ids` is flat [sum(lengths)].

        An empty document has no sequence; its entry in the document index repeats.
        """
        self._add(ids, lengths[lengths > 0], np.cumsum(lengths > 0, dtype="<i8"))

    def add_document(self, ids: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        """Append one document of several sequences; `ids` is flat [sum(lengths)]."""
        self._add(ids, np.asarray(lengths), np.array([len(lengths)], "<i8"))

    def add_sequences(
        self,
        ids: NDArray[np.integer],
        lengths: NDArray[np.integer],
        document_ends: NDArray[np.integer],
    ) -> None:
        """Append sequences; `document_ends` counts them from the first of this call."""
        self._add(ids, lengths, np.asarray(document_ends, "<i8"))

    def _add(
        self, ids: NDArray[np.integer], lengths: NDArray[np.integer], ends: NDArray[np.int64]
    ) -> None:
        if ids.dtype != self.dtype and len(ids):
            low, high = int(ids.min()), int(ids.max())
            if high > self._highest or low < 0:
                raise OutputError(
                    f"token ids from {low} to {high} do not fit {self.dtype.name}: the "
                    "tokenizer's vocabulary size is smaller than its ids"
                )
        data = np.ascontiguousarray(ids, dtype=self.dtype).data
        with reporting_output(f"{self.prefix}.bin"):
            self._files["bin"].write(data)
            self._files["lengths"].write(np.ascontiguousarray(lengths, "<i4").data)
            self._files["documents"].write((ends + self.num_sequences).data)
        self._digest.update(data)
        self.num_sequences += len(lengths)
        self.num_documents += len(ends)
        self.num_tokens += len(ids)

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
        """Append documents by the sequence index, in this file, at which each ends."""
        with reporting_output(f"{self.prefix}.idx"):
            self._files["documents"].write(np.ascontiguousarray(marks, "<i8").data)
        self.num_documents += len(marks)

    def sync(self) -> None:
        """Make everything so far durable, so that `written` may be kept for a later resume."""
        with reporting_output(f"{self.prefix}.bin"):
            for file in self._files.values():
                sync_file(file)

    def seal(self) -> dict[str, FileFacts]:
        """Write the .idx under its temporary name and sync all; facts of `.bin` and `.idx`."""
        with reporting_output(f"{self.prefix}.idx"):
            for file in self._files.values():
                file.flush()
            index = _HashingFile(self.temporary_idx)
            header = layout.pack_header(self.dtype, self.num_sequences, self.num_documents + 1)
            index.write(header)
            index.copy(self._paths["lengths"])
            self._write_pointers(index)
            index.write(np.zeros(1, "<i8").data)
            index.copy(self._paths["documents"])
            facts = index.close()
            sync_file(self._files["bin"])
            self.close()
        size = self.num_tokens * self.dtype.itemsize
        return {
            ".bin": FileFacts(num_bytes=size, sha256=self._digest.hexdigest()),
            ".idx": facts,
        }

    def finalize(self) -> None:
        """Seal, and rename: .bin first, .idx last."""
        self.seal()
        with reporting_output(f"{self.prefix}.idx"):
            publish(self.moves())
            self.remove_side_files()

    def moves(self) -> list[tuple[Path, Path]]:
        """(temporary, final) names, the one that makes the pair valid last."""
        return [
            (self._paths["bin"], layout.bin_path(self.prefix)),
            (self.temporary_idx, layout.idx_path(self.prefix)),
        ]

    def remove_side_files(self) -> None:
        """Remove the lengths and document marks, which the .idx now holds."""
        for name in ("lengths", "documents"):
            self._paths[name].unlink(missing_ok=True)

    def _write_pointers(self, index: _HashingFile) -> None:
        offset = 0
        with self._paths["lengths"].open("rb") as lengths:
            while block := lengths.read(BLOCK_BYTES):
                sizes = np.frombuffer(block, "<i4").astype("<i8") * self.dtype.itemsize
                ends = np.cumsum(sizes) + offset
                index.write((ends - sizes).astype("<i8").data)
                offset = int(ends[-1])

    def abort(self) -> None:
        """Remove what was written so far; nothing was under a final name."""
        self.close()
        for path in (*self._paths.values(), self.temporary_idx):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files as they are, to go on later with `resume`."""
        for file in self._files.values():
            close_as_it_is(file)

    def __enter__(self) -> IndexedDatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()


class _HashingFile:
    """A file that knows its size and checksum when it is closed."""

    def __init__(self, path: Path) -> None:
        self._file, self._size, self._digest = path.open("wb"), 0, checksum(path, 0)

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += memoryview(data).nbytes

    def copy(self, path: Path) -> None:
        with path.open("rb") as source:
            while block := source.read(BLOCK_BYTES):
                self.write(block)

    def close(self) -> FileFacts:
        sync_file(self._file)
        self._file.close()
        return FileFacts(num_bytes=self._size, sha256=self._digest.hexdigest())
