"""Compressed JSON lines as a stream of their bytes, for every common compression.

Arrow's codecs refuse some files that are read here: zstd frames with windows over 128 MiB (zstd's
long mode), gzip members padded with zeros (tapes, block devices), and xz. A file that is damaged or
cut off raises an error which names the bytes where decompression stopped. Everything before the
damage is read first.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Protocol

import pyarrow as pa

# Compressed bytes that are decompressed at a time. It bounds how much text before a damage is lost,
# and how much memory a stream needs that expands a thousand times.
_PIECE_BYTES = 1 << 14
_READ_BYTES = 1 << 20
_MAX_ZSTD_WINDOW_BYTES = 1 << 31


class Readable(Protocol):
    """A file or a decompressor to read from."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class _Decoder(Protocol):
    """A decoder of a single stream, as the modules of Python's library have it."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Bytes after the end of the stream."""
        ...

    def decompress(self, data: bytes, /) -> bytes:
        """What `data` gives."""
        ...


class Decompressor:
    """The bytes in a compressed file, which may consist of several streams in a row."""

    def __init__(self, raw: Readable, codec: str) -> None:
        self._raw, self._codec = raw, codec
        self._decoder: _Decoder | None = None
        self._num_streams = self._stream_start = 0
        self._buffer, self._at, self._buffer_start = b"", 0, 0
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._failure: OSError | None = None

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end. Raises OSError when all before a damage is read."""
        while self._ready_bytes < size and self._failure is None:
            try:
                block = self._decompress_piece()
            except OSError as error:
                self._failure = error
                break
            if block is None:
                break
            self._ready.append(block)
            self._ready_bytes += len(block)
        if not self._ready_bytes and self._failure is not None:
            raise self._failure
        ready = b"".join(self._ready)
        self._ready, self._ready_bytes = [ready[size:]], max(len(ready) - size, 0)
        return ready[:size]

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def _decompress_piece(self) -> bytes | None:
        """What the next piece of the file gives; None at its end."""
        if self._at == len(self._buffer):
            self._buffer_start += len(self._buffer)
            self._buffer, self._at = self._raw.read(_READ_BYTES), 0
            if not self._buffer:
                self._require_end()
                return None
        piece = self._buffer[self._at : self._at + _PIECE_BYTES]
        start = self._buffer_start + self._at
        self._at += len(piece)
        if self._decoder is None:
            # Zeros after a stream are the rest of a block of a tape or disk.
            piece = piece.lstrip(b"\0") if self._num_streams else piece
            if not piece:
                return b""
            self._decoder = _decoder_of(self._codec)
            self._stream_start = self._buffer_start + self._at - len(piece)
        try:
            block = self._decoder.decompress(piece)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise self._damage(start, len(piece), error) from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise self._damage(start, len(piece), error) from error
        if self._decoder.eof:
            self._at -= len(self._decoder.unused_data)
            self._decoder = None
            self._num_streams += 1
        return block

    def _require_end(self) -> None:
        if self._decoder is not None:
            raise OSError(
                f"the file ends at byte {self._buffer_start} within {self._codec} data that begins "
                f"at byte {self._stream_start}: it is cut off or damaged, copy it again"
            )

    def _damage(self, start: int, length: int, error: Exception) -> OSError:
        # A checksum that does not match tells that there is a damage, but not where.
        anywhere = ". The damage may lie anywhere between" if "check" in str(error) else ""
        return OSError(
            f"{self._codec} data that begins at byte {self._stream_start} of the file cannot be "
            f"decompressed between bytes {start} and {start + length}: {error}{anywhere}"
        )


def decompressed(raw: pa.NativeFile, codec: str) -> Readable:
    """A stream of the bytes that `raw` holds in compressed form."""
    if codec == "lz4":  # Python has none; Arrow reads its frames
        return pa.CompressedInputStream(raw, codec)
    return Decompressor(raw, codec)


def _decoder_of(codec: str) -> _Decoder:
    if codec == "gzip":
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    if codec == "bz2":
        return bz2.BZ2Decompressor()
    if codec == "xz":
        return lzma.LZMADecompressor()
    import zstandard  # here for start-up time: few runs read zstd

    return zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES).decompressobj()
