"""Where text can be cut without changing its ids: between two characters that no piece joins.

BPE merges neighbours, and each merge makes a piece. Suppose that no piece holds the characters `x`
and `y` side by side. Then no merge ever crosses a boundary between `x` and `y`, and neither does a
user-defined symbol. So the text on both sides of the boundary can be encoded on its own. The rule
needs the vocabulary alone. With Grok-1's vocabulary it cuts before spaces, around digits and
between most scripts: 7,437 pairs of characters are joined, all others are cuts. The units between
cuts have 4.5 bytes on average.

The table of pairs may name too many pairs as joined, which gives fewer cuts and the same ids. It
never names too few. Pairs of ASCII characters are exact. For other characters the table uses a hash
of the two bytes on each side of the boundary, so that it stays small enough for the caches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_data.tokenizer_files.model_facts import SEPARATOR

Bytes = NDArray[np.uint8]
# What a boundary is. Joined and cut are the values of a bool, so that an array of them becomes the
# result without a copy. Wide stands for a non-ASCII character at the boundary, to be looked up.
_JOINED, _CUT, _WIDE = 0, 1, 2
_SPACE, _MARK = b" ", "\u2581".encode()
# Slots of a byte each. A vocabulary that fills more than this many keeps some extra joined pairs.
_LARGEST_TABLE = 1 << 24
# Text that is marked at once. It and its marks fit into the second-level cache of a core.
_BLOCK_BYTES = 1 << 19


class CutTable:
    """The pairs of characters that some piece joins.

    `pieces` are the pieces that text can become, each followed by `model_facts.SEPARATOR`.
    """

    def __init__(self, pieces: bytes) -> None:
        joined = np.frombuffer(_spellings(pieces), np.uint8)
        # Indexed by two bytes as a little-endian number: what the boundary between them is.
        self._narrow = np.full(1 << 16, _CUT, np.uint8)
        for pairs in _pairs(joined):
            self._narrow[pairs] = _JOINED
        # The order decides. Bytes above ASCII overrule what the pieces tell of their bytes, and the
        # inside of a character overrules both.
        square = self._narrow.reshape(256, 256)  # [second byte, first byte]
        square[0x80:, :] = square[:, 0x80:] = _WIDE
        square[0x80:0xC0, :] = _JOINED  # inside a character
        windows = _windows(joined, _inner(self._wide_boundaries(joined), joined))
        size = 1 << 16
        # Larger until at most 5 % of the slots are joined: about as many cuts are lost, to pairs in
        # the slot of a joined pair. Grok-1's vocabulary needs a table of 256 KiB.
        while True:
            self._shift = np.uint32(32 - size.bit_length() + 1)
            self._wide = np.ones(size, bool)
            self._wide[self._slot(windows)] = False
            if self._wide.mean() > 0.95 or size >= _LARGEST_TABLE:
                break
            size *= 4

    def _slot(self, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Slots of the table for these windows: a multiplicative hash of 32 bits.

        The factors are those of Knuth (2^32 divided by the golden ratio) and of MurmurHash3. Two
        windows in the same slot are safe: the slot is joined if either of them is.
        """
        slots = windows * np.uint32(0x9E3779B1)
        slots ^= slots >> np.uint32(15)
        slots *= np.uint32(0x85EBCA6B)
        slots >>= self._shift
        return slots

    def cuts(self, text: Bytes) -> NDArray[np.bool_]:
        """[len(text) + 1] True where UTF-8 `text` may be cut, both ends included."""
        cut = np.empty(len(text) + 1, bool)
        cut[0] = True
        # Each block overlaps its neighbours by the bytes that a window at its edge needs.
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


def _spellings(pieces: bytes) -> bytes:
    """All pieces, as text may spell them: a space for U+2581 or U+2581 itself."""
    spaced = pieces.replace(_MARK, _SPACE)
    # A piece with two spaces side by side can also be spelt half and half.
    mixed = _SPACE + _MARK + _SPACE if b"  " in spaced else b""
    return b"".join((SEPARATOR, pieces, spaced, mixed, SEPARATOR))


def _inner(positions: NDArray[np.intp], text: Bytes) -> NDArray[np.intp]:
    """Boundaries with two bytes of `text` on both sides; the others count as joined."""
    if len(positions) and (positions[0] < 2 or positions[-1] > len(text) - 2):
        return positions[(positions >= 2) & (positions <= len(text) - 2)]
    return positions


def _windows(text: Bytes, positions: NDArray[np.intp]) -> NDArray[np.uint32]:
    """The bytes of `text` around boundaries with a non-ASCII character on either side.

    A window is the four bytes text[p - 2 : p + 2] as a little-endian number. The outer byte of an
    ASCII character's side is zero, as it belongs to another character: a window depends on nothing
    but the two characters at the boundary.
    """
    if not len(positions):
        return np.empty(0, np.uint32)
    # The windows of all positions, as a view that overlaps itself: an index reads four bytes.
    every_window = np.ndarray((len(text) - 3,), "<u4", text, strides=(1,))
    windows = every_window[positions - 2]
    # The top bit of an inner byte tells that its character is not ASCII and the outer byte counts.
    # Arithmetic makes a mask of 0xFF of it, or of 0, for all windows without a branch. Bit 15, of
    # text[p - 1], moves to bit 8: 0x100 - 0x1 is 0xFF, the mask of text[p - 2].
    top_bit = (windows & np.uint32(0x00008000)) >> np.uint32(7)
    mask_before = top_bit - (top_bit >> np.uint32(8))
    # Bit 23, of text[p], moves to bit 16: (0x1000000 - 0x10000) << 8 is the mask of text[p + 1].
    top_bit = (windows & np.uint32(0x00800000)) >> np.uint32(7)
    mask_after = (top_bit << np.uint32(8)) - top_bit
    mask_after <<= np.uint32(8)
    inner_bytes = np.uint32(0x00FFFF00)
    windows &= mask_before | mask_after | inner_bytes
    return windows
