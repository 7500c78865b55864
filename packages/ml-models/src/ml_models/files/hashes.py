"""SHA-256 of files that exist, and of streams while they are written."""

import hashlib
from pathlib import Path
from typing import BinaryIO

from typing_extensions import Buffer

READ_BYTES = 4 * 2**20


def sha256_of(path: Path) -> str:
    """Checksum of a file, read in pieces, so that memory stays small."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


class HashingStream:
    """Passes bytes on to a stream, counts them and hashes them; torch.save can write to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest = stream, hashlib.sha256()
        self.size = 0
        """Bytes written so far, which is the position of the next byte."""

    def write(self, data: Buffer) -> int:
        """Append bytes; returns how many."""
        view = memoryview(data)
        self._stream.write(view)
        self._digest.update(view)
        self.size += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        """Pass the call on; torch.save expects it of a file."""
        self._stream.flush()

    def sha256(self) -> str:
        """Of everything written so far."""
        return self._digest.hexdigest()
