"""What a SentencePiece model file says about itself, read without protobuf.

protobuf's generated classes would be a further dependency. Only the outer layers of the wire format
are read. Field numbers are those of sentencepiece_model.proto. A model holds pieces (1), a trainer
spec (2) and a normalizer spec (3). A piece holds its text (1), score (2) and type (3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_BPE = 2
# The largest piece that the quick reading takes, with the bytes behind it that it looks at: a key,
# a size below 0x80, and as many bytes.
_LONGEST_USUAL_PIECE = 0x100 + 16


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The pieces with their types, and the options that decide how text is cut."""

    pieces: list[bytes]
    types: list[int]
    is_bpe: bool
    byte_fallback: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    has_character_map: bool
    whitespace_as_suffix: bool

    @cached_property
    def all_text(self) -> bytes:
        """All pieces with line feeds between them, to search for a text that no piece holds."""
        return b"\n".join(self.pieces)

    def of_types(self, *types: int) -> list[bytes]:
        """Pieces of the given types, in the order of their ids."""
        return [piece for piece, kind in zip(self.pieces, self.types, strict=True) if kind in types]


def read_facts(raw: bytes) -> ModelFacts:
    """Facts of a serialized model; ValueError or IndexError when `raw` is not one."""
    pieces: list[bytes] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    rest = _read_usual_pieces(raw, pieces, types)
    for field, value in _fields(raw, rest):
        if not isinstance(value, bytes):
            continue
        if field == _PIECES:
            text, kind = _read_piece(value)
            pieces.append(text)
            types.append(kind)
        elif field == _TRAINER:
            trainer = dict(_fields(value))
        elif field == _NORMALIZER:
            normalizer = dict(_fields(value))
    return ModelFacts(
        pieces=pieces,
        types=types,
        is_bpe=trainer.get(3, 1) == _BPE,
        byte_fallback=bool(trainer.get(35, 0)),
        whitespace_as_suffix=bool(trainer.get(24, 0)),
        has_character_map=bool(normalizer.get(2, b"")),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
    )


def with_control_tokens_in_text(raw: bytes) -> bytes:
    """The same model with its CONTROL pieces made USER_DEFINED: in text they count as tokens."""
    out = bytearray()
    position = 0
    while position < len(raw):
        start = position
        field, wire, position = _key(raw, position)
        value, position = _value(raw, position, wire)
        if field == _PIECES and isinstance(value, bytes) and _read_piece(value)[1] == CONTROL:
            # In a protobuf message the last value of a field counts, so a type is appended.
            changed = value + bytes([3 << 3, USER_DEFINED])
            out += bytes([_PIECES << 3 | 2]) + _varint(len(changed)) + changed
        else:
            out += raw[start:position]
    return bytes(out)


def _read_usual_pieces(raw: bytes, pieces: list[bytes], types: list[int]) -> int:
    """Append the pieces at the start of a model that have the layout of the library's own files.

    That layout is text, score, and a type unless the type is NORMAL, with all lengths in a byte.
    Returns the position at which it stopped. numpy looks for the layout at every byte at once, as a
    loop over 131,072 pieces would take most of the time of opening a tokenizer. Bytes inside a
    piece may look like a piece: a piece counts only if it begins where the piece before it ends.
    """
    if len(raw) <= _LONGEST_USUAL_PIECE:
        return 0
    data = np.frombuffer(raw, np.uint8)
    last = len(raw) - _LONGEST_USUAL_PIECE
    starts = np.flatnonzero((data[:last] == 0x0A) & (data[2 : last + 2] == 0x0A))
    sizes, lengths = data[starts + 1].astype(np.intp), data[starts + 3].astype(np.intp)
    ends, scores = starts + 2 + sizes, starts + 4 + lengths
    rest = ends - scores
    typed = rest == 7
    # 0x15 is the key of a score (4 bytes follow), 0x18 that of a type (1 byte follows).
    usual = (sizes < 0x80) & ((rest == 5) | typed & (data[scores + 5] == 0x18))
    usual &= data[scores] == 0x15
    chain = _chained(starts, ends, usual)
    if not len(chain):
        return 0
    kinds = np.where(typed[chain], data[scores[chain] + 6], NORMAL)
    types += kinds.tolist()
    bounds = zip((starts[chain] + 4).tolist(), scores[chain].tolist(), strict=True)
    pieces += [raw[begin:end] for begin, end in bounds]
    return int(ends[chain[-1]])


def _chained(
    starts: NDArray[np.intp], ends: NDArray[np.intp], usual: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Rows of the spans that follow each other from byte 0 on without a gap."""
    rows = np.flatnonzero(usual)
    if not len(rows) or starts[rows[0]] != 0:
        return rows[:0]
    # successor[i] is the span that begins where span i ends; `stop` stands for none.
    stop = len(rows)
    row_at = np.full(int(max(starts[-1], ends[rows].max())) + 1, stop)
    row_at[starts[rows]] = np.arange(stop)
    successor = np.append(row_at[ends[rows]], stop)
    # `successor` skips 1 span, then 2, 4, 8 and so on, and every span reached so far takes the hop.
    # A chain of n spans therefore takes log2(n) passes.
    reached = np.zeros(stop + 1, bool)
    reached[0] = True
    while not reached[stop]:
        reached[successor[reached]] = True
        successor = successor[successor]
    return rows[reached[:stop]]


def _read_piece(body: bytes) -> tuple[bytes, int]:
    """(text, type) of a piece in any layout."""
    fields = dict(_fields(body))
    text, kind = fields.get(1, b""), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(kind, int):
        raise ValueError("a piece's text or type has the wrong wire type")
    return text, kind


def _fields(raw: bytes, position: int = 0) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of each field of a message, from `position` on."""
    end = len(raw)
    while position < end:
        field, wire, position = _key(raw, position)
        value, position = _value(raw, position, wire)
        yield field, value


def _key(raw: bytes, position: int) -> tuple[int, int, int]:
    key = raw[position]
    if key < 0x80:
        return key >> 3, key & 7, position + 1
    key, position = _read_varint(raw, position)
    return key >> 3, key & 7, position


def _value(raw: bytes, position: int, wire: int) -> tuple[int | bytes, int]:
    if wire == 0:
        return _read_varint(raw, position)
    if wire == 2:
        length, position = _read_varint(raw, position)
    elif wire in (1, 5):
        length = 8 if wire == 1 else 4
    else:
        raise ValueError(f"wire type {wire} at byte {position}")
    end = position + length
    if end > len(raw):
        raise ValueError(f"a field at byte {position} reaches past the end")
    return raw[position:end], end


def _read_varint(raw: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = raw[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
