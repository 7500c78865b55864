"""Where text can be cut without changing its ids: between two characters that no piece joins.

BPE merges neighbours, and each merge makes a piece. If no piece holds the characters `x y` side by
side, then no merge ever crosses a boundary between `x` and `y`, and no user-defined symbol does:
both sides are encoded as if the other were not there. The rule needs nothing but the vocabulary;
in Grok-1's it cuts before spaces, around digits, between most scripts (7,437 pairs are joined, so
nearly every other boundary is a cut), and leaves units of 4.5 bytes on average.

A table of pairs may claim too many joined pairs (fewer cuts, same ids), never too few. ASCII pairs
are exact. Of wider characters only the two bytes next to the boundary are looked at, and hashed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_JOINED, _CUT, _WIDE = 0, 1, 2
_SEPARATOR = b"\xff\xff"  # in no UTF-8 text
_SPACE, _MARK = b" ", "\u2581".encode()
_LARGEST_TABLE = 1 << 24
_BLOCK_BYTES = 1 << 19


class CutTable:
    """The pairs of characters that some piece joins, from the pieces that text can become."""

    def __init__(self, pieces: list[bytes]) -> None:
        joined = np.frombuffer(_spellings(pieces), np.uint8)
        # Indexed by two bytes as a little-endian number: what the boundary between them is.
        self._narrow = np.full(1 << 16, _CUT, np.uint8)
        for pairs in _pairs(joined):
            self._narrow[pairs] = _JOINED
        square = self._narrow.reshape(256, 256)  # [second byte, first byte]
        square[0x80:, :] = square[:, 0x80:] = _WIDE
        square[0x80:0xC0, :] = _JOINED  # inside a character
        windows = _windows(joined, _inner(self._wide_boundaries(joined), joined))
        size = 1 << 16
        while True:
            self._shift = np.uint32(32 - size.bit_length() + 1)
            self._wide = np.ones(size, bool)
            self._wide[self._slot(windows)] = False
            if self._wide.mean() > 0.95 or size >= _LARGEST_TABLE:
                break
            size *= 4

    def _slot(self, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        slots = windows * np.uint32(0x9E3779B1)
        slots ^= slots >> np.uint32(15)
        slots *= np.uint32(0x85EBCA6B)
        slots >>= self._shift
        return slots

    def cuts(self, text: Bytes) -> NDArray[np.bool_]:
        """[len(text) + 1] True where UTF-8 `text` may be cut, both ends included."""
        cut = np.empty(len(text) + 1, bool)
        cut[0] = True
        # Block by block, in the processor's cache; each overlaps the next by what a window sees.
        for start in range(0, len(text), _BLOCK_BYTES):
            block = text[max(start - 1, 0) : start + _BLOCK_BYTES + 2]
            self._mark(block, cut[max(start - 1, 0) : start + _BLOCK_BYTES + 2])
        cut[-1] = True
        return cut

    def _mark(self, text: Bytes, cut: NDArray[np.bool_]) -> None:
        """Set `cut[1:len(text)]`, the boundaries inside `text`."""
        kinds = cut.view(np.uint8)
        wide = self._wide_boundaries(text, kinds)
        if len(wide):
            kinds[wide] = _JOINED
            inner = _inner(wide, text)
            cut[inner] = self._wide.take(self._slot(_windows(text, inner)))

    def _wide_boundaries(self, text: Bytes, kinds: Bytes | None = None) -> NDArray[np.intp]:
        """Boundaries next to a character that is not ASCII; `kinds[1:len(text)]` gets all kinds."""
        kinds = np.empty(len(text) + 1, np.uint8) if kinds is None else kinds
        even, odd = _pairs(text)
        kinds[1 : 2 * len(even) : 2] = self._narrow.take(even)
        kinds[2 : 2 * len(odd) + 1 : 2] = self._narrow.take(odd)
        return np.flatnonzero(kinds[1 : len(text)] == _WIDE) + 1


def _pairs(text: Bytes) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Neighbouring bytes as little-endian numbers, those at even and those at odd positions."""
    return text[: len(text) & ~1].view("<u2"), text[1 : 1 + ((len(text) - 1) & ~1)].view("<u2")


def _spellings(pieces: list[bytes]) -> bytes:
    """All pieces, as text may spell them: a space for U+2581 or U+2581 itself."""
    all_pieces = _SEPARATOR.join(pieces)
    spaced = all_pieces.replace(_MARK, _SPACE)
    # A piece with two spaces side by side can also be spelt half and half.
    mixed = _SPACE + _MARK + _SPACE if b"  " in spaced else b""
    return _SEPARATOR.join((b"", all_pieces, spaced, mixed, b""))


def _inner(positions: NDArray[np.intp], text: Bytes) -> NDArray[np.intp]:
    """Boundaries with two bytes of `text` on both sides; the others count as joined."""
    if len(positions) and (positions[0] < 2 or positions[-1] > len(text) - 2):
        return positions[(positions >= 2) & (positions <= len(text) - 2)]
    return positions


def _windows(text: Bytes, positions: NDArray[np.intp]) -> NDArray[np.uint32]:
    """What the rule sees of boundaries with a non-ASCII character on either side.

    That is four bytes, two on each side, as a little-endian number; on an ASCII character's side
    the outer one is zero.
    """
    if not len(positions):
        return np.empty(0, np.uint32)
    every_window = np.ndarray((len(text) - 3,), "<u4", text, strides=(1,))
    windows = every_window[positions - 2]
    keep = np.uint32(0x00FFFF00)
    outer = (windows & np.uint32(0x00008000)) >> np.uint32(7)
    before = outer - (outer >> np.uint32(8))
    outer = (windows & np.uint32(0x00800000)) >> np.uint32(7)
    after = (outer << np.uint32(8)) - outer
    after <<= np.uint32(8)
    windows &= before | after | keep
    return windows
