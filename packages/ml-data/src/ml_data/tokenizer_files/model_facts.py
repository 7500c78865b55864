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

Positions = NDArray[np.int64]
SEPARATOR = b"\xff\xff"
"""What parts pieces of `ModelFacts.text_of_types`: in no UTF-8 text."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_BPE = 2
# The largest piece that the quick reading takes, with the bytes behind it that it looks at: a key,
# a size below 0x80, and as many bytes.
_LONGEST_USUAL_PIECE = 0x100 + 16
# In the usual layout: the key and the four bytes of the score, and the key of the type.
_TYPE_BEHIND_TEXT = 6


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The pieces with their types, and the options that decide how text is cut.

    Piece `i` is `raw[starts[i]:ends[i]]`. Positions take a tenth of the time of a list of 131,072
    pieces, and the fast engine needs no such list.
    """

    raw: bytes
    """The serialized model."""
    starts: Positions
    ends: Positions
    types: Positions
    has_trainer_spec: bool
    """Whether the file says how it was made. It does so behind its pieces, at its end."""
    is_bpe: bool
    byte_fallback: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    has_character_map: bool
    whitespace_as_suffix: bool

    @cached_property
    def pieces(self) -> list[bytes]:
        """All pieces, in the order of their ids."""
        spans = zip(self.starts.tolist(), self.ends.tolist(), strict=True)
        return [self.raw[start:end] for start, end in spans]

    def of_types(self, *types: int) -> list[bytes]:
        """Pieces of the given types, in the order of their ids."""
        kinds = self.types.tolist()
        return [piece for piece, kind in zip(self.pieces, kinds, strict=True) if kind in types]

    def text_of_types(self, *types: int) -> bytes:
        """Pieces of the given types, each followed by `SEPARATOR`."""
        chosen = np.isin(self.types, types)
        starts, ends = self.starts[chosen], self.ends[chosen]
        # The separator overwrites what follows a text: the keys and sizes in front of the next one
        # take at least four bytes, and behind the last text it has room of its own.
        text = np.frombuffer(bytearray(self.raw + SEPARATOR), np.uint8)
        for offset, byte in enumerate(SEPARATOR):
            text[ends + offset] = byte
        # +1 where a text begins, -1 behind its separator: the sum is 1 between the two, else 0.
        steps = np.zeros(len(text) + 1, np.int8)
        steps[starts] += 1
        steps[ends + len(SEPARATOR)] -= 1
        return text[np.cumsum(steps[:-1], dtype=np.int8).view(bool)].tobytes()


def read_facts(raw: bytes) -> ModelFacts:
    """Facts of a serialized model; ValueError or IndexError when `raw` is not one."""
    starts, ends, types, rest = _read_usual_pieces(raw)
    others: list[tuple[int, int, int]] = []
    trainer: dict[int, int | slice] = {}
    normalizer: dict[int, int | slice] = {}
    for field, value in _fields(raw, rest, len(raw)):
        if not isinstance(value, slice):
            continue
        if field == _PIECES:
            others.append(_read_piece(raw, value))
        elif field == _TRAINER:
            trainer = dict(_fields(raw, value.start, value.stop))
        elif field == _NORMALIZER:
            normalizer = dict(_fields(raw, value.start, value.stop))
    more = np.array(others, np.int64).reshape(-1, 3)
    character_map = normalizer.get(2)
    return ModelFacts(
        raw=raw,
        starts=np.concatenate((starts, more[:, 0])),
        ends=np.concatenate((ends, more[:, 1])),
        types=np.concatenate((types, more[:, 2])),
        has_trainer_spec=bool(trainer),
        is_bpe=trainer.get(3, 1) == _BPE,
        byte_fallback=bool(trainer.get(35, 0)),
        whitespace_as_suffix=bool(trainer.get(24, 0)),
        has_character_map=isinstance(character_map, slice)
        and character_map.stop > character_map.start,
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
    )


def with_control_tokens_in_text(raw: bytes) -> bytes:
    """The same model with its CONTROL pieces made USER_DEFINED: in text they count as tokens."""
    _, ends, types, position = _read_usual_pieces(raw)
    out = bytearray(raw[:position])
    for end in ends[types == CONTROL].tolist():
        out[end + _TYPE_BEHIND_TEXT] = USER_DEFINED
    while position < len(raw):
        start = position
        field, wire, position = _key(raw, position)
        value, position = _value(raw, position, wire)
        is_piece = field == _PIECES and isinstance(value, slice)
        if isinstance(value, slice) and is_piece and _read_piece(raw, value)[2] == CONTROL:
            # In a protobuf message the last value of a field counts, so a type is appended.
            changed = raw[value] + bytes([3 << 3, USER_DEFINED])
            out += bytes([_PIECES << 3 | 2]) + _varint(len(changed)) + changed
        else:
            out += raw[start:position]
    return bytes(out)


def _read_usual_pieces(raw: bytes) -> tuple[Positions, Positions, Positions, int]:
    """(starts, ends, types) of the first pieces that have the layout of the library's own files.

    That layout is text, score, and a type unless the type is NORMAL, with all lengths in a byte.
    The last value is the position at which this reading stopped. numpy looks for the layout at
    every byte at once, as a loop over 131,072 pieces would take most of the time of opening a
    tokenizer. Bytes inside a piece may look like a piece: a piece counts only if it begins where
    the piece before it ends.
    """
    none = np.empty(0, np.int64)
    if len(raw) <= _LONGEST_USUAL_PIECE:
        return none, none, none, 0
    data = np.frombuffer(raw, np.uint8)
    last = len(raw) - _LONGEST_USUAL_PIECE
    starts = np.flatnonzero((data[:last] == 0x0A) & (data[2 : last + 2] == 0x0A))
    sizes, lengths = data[starts + 1].astype(np.int64), data[starts + 3].astype(np.int64)
    ends, scores = starts + 2 + sizes, starts + 4 + lengths
    rest = ends - scores
    typed = rest == 7
    # 0x15 is the key of a score (4 bytes follow), 0x18 that of a type (1 byte follows).
    usual = (sizes < 0x80) & ((rest == 5) | typed & (data[scores + 5] == 0x18))
    usual &= data[scores] == 0x15
    chain = _chained(starts, ends, usual)
    if not len(chain):
        return none, none, none, 0
    types = np.where(typed[chain], data[scores[chain] + _TYPE_BEHIND_TEXT], NORMAL)
    types = types.astype(np.int64)
    return starts[chain] + 4, scores[chain], types, int(ends[chain[-1]])


def _chained(starts: Positions, ends: Positions, usual: NDArray[np.bool_]) -> Positions:
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


def _read_piece(raw: bytes, body: slice) -> tuple[int, int, int]:
    """(start, end, type) of a piece in any layout, whose message is `raw[body]`."""
    fields = dict(_fields(raw, body.start, body.stop))
    text, kind = fields.get(1, slice(body.start, body.start)), fields.get(3, NORMAL)
    if not isinstance(text, slice) or not isinstance(kind, int):
        raise ValueError("a piece's text or type has the wrong wire type")
    return text.start, text.stop, kind


def _fields(raw: bytes, position: int, end: int) -> Iterator[tuple[int, int | slice]]:
    """(field number, value) of each field of the message between two positions of `raw`.

    A value of bytes is the slice of `raw` that holds it.
    """
    while position < end:
        field, wire, position = _key(raw, position)
        value, position = _value(raw, position, wire)
        if position > end:
            raise ValueError(f"a field ends at byte {position}, past the end {end} of its message")
        yield field, value


def _key(raw: bytes, position: int) -> tuple[int, int, int]:
    key = raw[position]
    if key < 0x80:
        return key >> 3, key & 7, position + 1
    key, position = _read_varint(raw, position)
    return key >> 3, key & 7, position


def _value(raw: bytes, position: int, wire: int) -> tuple[int | slice, int]:
    """The value at `position`, and the position behind it."""
    if wire == 0:
        return _read_varint(raw, position)
    if wire == 2:
        length, position = _read_varint(raw, position)
    elif wire in (1, 5):
        length = 8 if wire == 1 else 4
    else:
        raise ValueError(f"wire type {wire} at byte {position}")
    return slice(position, position + length), position + length


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
