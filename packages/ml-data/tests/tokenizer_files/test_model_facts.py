"""The quick reading of a model's pieces against the walk over its fields."""

from __future__ import annotations

import struct
import sys
from types import FrameType

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_data.tokenizer_files import model_facts
from ml_data.tokenizer_files.model_facts import (
    CONTROL,
    NORMAL,
    SEPARATOR,
    USER_DEFINED,
    read_facts,
    with_control_tokens_in_text,
)

# A field that SentencePiece does not know, in front: the quick reading stops before it begins.
UNKNOWN_FIELD = b"\x78\x00"
# Texts that hold the bytes with which a piece begins.
TEXTS = st.one_of(
    st.binary(max_size=140),
    st.binary(max_size=20).map(lambda text: piece(text, None)),
    st.binary(max_size=20).map(lambda text: piece(text, 6) * 3),
)
PIECES = st.tuples(TEXTS, st.one_of(st.none(), st.integers(1, 6)), st.booleans())


def length(body: bytes) -> bytes:
    """`body` with its size in front, as a varint of up to two bytes."""
    size = len(body)
    return (bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])) + body


def piece(text: bytes, kind: int | None, reverse: bool = False) -> bytes:
    """A piece as the library writes it, or with its fields in another order."""
    fields = [b"\x0a" + length(text), b"\x15" + struct.pack("<f", -1.0)]
    if kind is not None:
        fields.append(bytes([0x18, kind]))
    return b"\x0a" + length(b"".join(fields[::-1] if reverse else fields))


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=30))
@example([(piece(b"ab", 6), None, False)] * 9)
@example([(b"a", None, True), (b"b", None, False)])
def test_the_quick_reading_is_the_walk_over_the_fields(pieces: list) -> None:
    raw = b"".join(piece(*values) for values in pieces) + b"\x12\x02\x18\x02" + b"\x1a\x00" * 200
    quick, walked = read_facts(raw), read_facts(UNKNOWN_FIELD + raw)
    assert quick.pieces == walked.pieces == [text for text, _, _ in pieces]
    kinds = [kind or 1 for _, kind, _ in pieces]
    assert quick.types.tolist() == walked.types.tolist() == kinds
    assert quick.is_bpe
    changed = read_facts(with_control_tokens_in_text(raw))
    assert changed.pieces == quick.pieces
    in_text = [USER_DEFINED if kind == CONTROL else kind for kind in kinds]
    assert changed.types.tolist() == in_text
    for types in ((NORMAL, USER_DEFINED), (CONTROL,), range(1, 7)):
        chosen = [text for text, kind in zip(quick.pieces, kinds, strict=True) if kind in types]
        expected = b"".join(text + SEPARATOR for text in chosen)
        assert quick.text_of_types(*types) == walked.text_of_types(*types) == expected


def test_the_text_of_a_piece_may_end_the_file() -> None:
    facts = read_facts(piece(b"ab", 1) + piece(b"", 1) + piece(b"cd", 4, reverse=True))
    assert facts.text_of_types(NORMAL, USER_DEFINED) == b"ab\xff\xff\xff\xffcd\xff\xff"


def passes_over_the_spans(raw: bytes) -> int:
    """How many lines of the search for the chain of pieces run: its loop makes a pass per turn."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        if frame.f_code is not model_facts._chained.__code__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        model_facts._read_usual_pieces(raw)
    finally:
        sys.settrace(before)
    return count


@given(st.integers(0, 3000), st.booleans())
@example(0, True)
@settings(max_examples=10, deadline=None)
def test_an_unusual_piece_costs_no_pass_per_piece(where: int, has_unusual: bool) -> None:
    """--parse-special-tokens changes the type of the first pieces of Grok-1's 131,072."""
    pieces = [piece(b"%d" % number, None) for number in range(3000)]
    if has_unusual:
        pieces.insert(where, piece(b"[EOS]", 4, reverse=True))
    assert 0 < passes_over_the_spans(b"".join(pieces) + b"\x1a\x00" * 200) < 100
