"""Compressed files as other tools write them, and damages named where they are."""

import bz2
import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from ml_data.documents.batch import Position, Segment
from ml_data.documents.decompress import decompressed
from ml_data.documents.read import read_source
from ml_data.documents.sources import resolve
from ml_data.errors import InputError

RAW = b"".join(b'{"text": "line %d of the file, %d"}\n' % (n, n * n) for n in range(4_000))
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"magic"


def long_window(raw: bytes) -> bytes:
    """As `zstd --long=28` writes: a window larger than decoders allow unless told to."""
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return stream.compress(raw) + stream.flush()


def whole(codec: str, packed: bytes, size: int = 4096) -> bytes:
    stream = decompressed(pa.BufferReader(packed), codec)
    blocks = []
    while block := stream.read(size):
        assert len(block) <= size
        blocks.append(block)
    assert stream.read(size) == b""
    return b"".join(blocks)


@pytest.mark.parametrize(
    ("codec", "pack"),
    [
        ("gzip", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
        ("zstd", zstandard.compress),
        ("zstd", long_window),
        ("lz4", lambda raw: pa.compress(raw, "lz4", asbytes=True)),
    ],
)
def test_one_stream_and_several(codec: str, pack: Callable[[bytes], bytes]) -> None:
    assert whole(codec, pack(RAW)) == RAW
    assert whole(codec, pack(RAW), 1 << 22) == RAW
    if codec != "lz4":
        assert whole(codec, pack(RAW[:100]) + pack(b"") + pack(RAW[100:])) == RAW
        assert whole(codec, pack(RAW) + bytes(100_000) + pack(RAW) + bytes(512)) == 2 * RAW


def test_skippable_zstd_frames() -> None:
    packed = SKIPPABLE + zstandard.compress(RAW) + SKIPPABLE
    assert whole("zstd", packed) == RAW


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("a.jsonl.xz", lzma.compress),
        ("a.jsonl.bz2", bz2.compress),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "overwritten", "rubbish after it"])
def test_a_damage_is_named_where_it_is(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], damage: str
) -> None:
    """Two streams, the damage in the second: the lines of the first come out before the error."""
    first, second = pack(RAW), pack(RAW)
    half = len(second) // 2
    packed = (
        first
        + {
            "cut": second[:half],
            "overwritten": second[:half] + b"\xff" * 2000 + second[half + 2000 :],
            "rubbish after it": b"rubbish",
        }[damage]
    )
    path = tmp_path / name
    path.write_bytes(packed)
    (source,) = resolve([str(path)]).sources
    lines = b""
    words = r"after line (\d+): .* data that begins at byte (\d+)"
    with pytest.raises(InputError, match=words) as raised:
        for batch in read_source(source, Segment(file=0, start=Position()), [], 1 << 16):
            lines += batch.lines or b""
    match = re.search(words, str(raised.value))
    assert match is not None
    assert int(match[1]) == lines.count(b"\n") >= 4_000
    assert int(match[2]) == len(first)
    assert lines.startswith(RAW)
