"""A part of a file, read as a file of its own."""

import io
from pathlib import Path
from typing import BinaryIO, cast

from typing_extensions import Buffer

from ml_models.errors import WeightError


class FileSlice(io.RawIOBase):
    """`length` bytes at `offset` of a file, as a file of its own."""

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self._file = path.open("rb")
        self._offset, self._size, self._position = offset, length, 0
        # Checked here: a short read later would look like the end of the archive.
        if offset < 0 or length < 0 or offset + length > path.stat().st_size:
            self._file.close()
            raise WeightError(f"{path}: truncated, {length} bytes at {offset} are not all there.")

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes from the slice's first."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the slice; a place behind its end reads nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Fill `buffer` up to the slice's end."""
        view = memoryview(buffer).cast("B")
        self._file.seek(self._offset + self._position)
        data = self._file.read(max(0, min(len(view), self._size - self._position)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def open_slice(path: Path, offset: int, length: int) -> BinaryIO:
    """A buffered FileSlice. Raises WeightError where the file is shorter."""
    return cast(BinaryIO, io.BufferedReader(FileSlice(path, offset, length)))
