"""Write a .bin/.idx pair: temporary names, fsync, rename; the .idx, which makes it valid, last.

Lengths and document marks of a run are kept in side files, so that memory does not grow with
the number of documents.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ml_data.errors import OutputError
from ml_data.indexed import layout

_BLOCK = 1 << 20


def fsync_directory(directory: Path) -> None:
    """Make renames in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class IndexedDatasetWriter:
    """Append sequences and document ends; `finalize` gives the pair its final names."""

    def __init__(self, prefix: str | Path, dtype: np.dtype) -> None:
        self.prefix, self.dtype = Path(prefix), np.dtype(dtype)
        self._highest = np.iinfo(self.dtype).max
        self.num_sequences = self.num_documents = self.num_tokens = 0
        parts = {"bin": ".bin.tmp", "lengths": ".lengths.tmp", "documents": ".documents.tmp"}
        self._paths = {name: Path(f"{prefix}{suffix}") for name, suffix in parts.items()}
        try:
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._files: dict[str, BinaryIO] = {
                name: path.open("wb") for name, path in self._paths.items()
            }
        except OSError as error:
            raise OutputError(f"cannot write {prefix}.bin: {error.strerror}") from error

    def add_batch(self, ids: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        """Append one document per entry of `lengths` [documents]; `ids` is flat [sum(lengths)].

        An empty document has no sequence; its entry in the document index repeats.
        """
        if len(ids) and (int(ids.max()) > self._highest or int(ids.min()) < 0):
            raise OutputError(
                f"token id {int(ids.max())} does not fit {self.dtype.name}: the tokenizer's "
                "vocabulary size is smaller than its ids"
            )
        kept = lengths[lengths > 0].astype("<i4")
        ends = np.cumsum(lengths > 0, dtype="<i8") + self.num_sequences
        self._files["bin"].write(np.ascontiguousarray(ids, dtype=self.dtype).data)
        self._files["lengths"].write(kept.data)
        self._files["documents"].write(ends.data)
        self.num_sequences += len(kept)
        self.num_documents += len(lengths)
        self.num_tokens += len(ids)

    def finalize(self) -> None:
        """Write the .idx, sync everything, and rename: .bin first, .idx last."""
        index = Path(f"{self.prefix}.idx.tmp")
        for file in self._files.values():
            file.flush()
        with index.open("wb") as out:
            out.write(layout.pack_header(self.dtype, self.num_sequences, self.num_documents + 1))
            with self._paths["lengths"].open("rb") as lengths:
                shutil.copyfileobj(lengths, out)
            self._write_pointers(out)
            out.write(np.zeros(1, "<i8").data)
            with self._paths["documents"].open("rb") as documents:
                shutil.copyfileobj(documents, out)
            out.flush()
            os.fsync(out.fileno())
        os.fsync(self._files["bin"].fileno())
        # An .idx left over from an older run must not describe the new .bin for a moment.
        layout.idx_path(self.prefix).unlink(missing_ok=True)
        self._paths["bin"].replace(layout.bin_path(self.prefix))
        index.replace(layout.idx_path(self.prefix))
        self._close("lengths", "documents")
        fsync_directory(self.prefix.parent)

    def _write_pointers(self, out: BinaryIO) -> None:
        offset = 0
        with self._paths["lengths"].open("rb") as lengths:
            while block := lengths.read(4 * _BLOCK):
                sizes = np.frombuffer(block, "<i4").astype("<i8") * self.dtype.itemsize
                ends = np.cumsum(sizes) + offset
                out.write((ends - sizes).astype("<i8").data)
                offset = int(ends[-1])

    def abort(self) -> None:
        """Remove what was written so far; nothing was under a final name."""
        self._close("bin", "lengths", "documents")
        Path(f"{self.prefix}.idx.tmp").unlink(missing_ok=True)

    def _close(self, *names: str) -> None:
        for file in self._files.values():
            file.close()
        for name in names:
            self._paths[name].unlink(missing_ok=True)

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
