"""The ids of the units of text seen so far, and how a million of them are looked up at a time.

Nearly all units have at most 16 bytes. Such a unit is kept as two 64-bit numbers, its head and its
tail. numpy hashes the numbers of a window of text to slots. A slot holds the code of the unit that
was seen there last. The code counts only if its unit has the head and tail that are looked up. So a
slot that another unit has taken costs time and never gives a wrong id. Longer units, and units
whose slot was taken, are looked up through Arrow's dictionary encoding and a Python dict.
SentencePiece encodes the units that are new.
"""

from __future__ import annotations

import threading
from itertools import repeat

import numpy as np
import pyarrow as pa
import sentencepiece
from numpy.typing import NDArray

from ml_data.arrow import call, integers
from ml_data.tokenizers.cuts import Bytes
from ml_data.tokenizers.protocol import Ids, flatten

Numbers = NDArray[np.uint64]
Rows = NDArray[np.int64]
# A table that has more than this starts over: about 150 MB of memory at most.
MOST_UNITS, MOST_UNIT_BYTES = 1 << 19, 64 << 20
_KEY_BYTES = 8
_NO_KEY = np.uint64(0)
# Eight bytes of 0xFF are not UTF-8, so no unit has this head. Code 0 has it: an empty slot, which
# holds code 0, never counts.
_RESERVED = np.uint64(0xFFFFFFFFFFFFFFFF)
# Four bytes a slot: 4 MB, which lookups at random still find in a shared cache.
_SLOT_BITS = 20
# Odd 64-bit factors of well-known hashes (2^64 divided by the golden ratio, and xxHash's). Only
# the top bits of a product are used, which all bits of the number have influenced.
_MIX_HEAD, _MIX_TAIL = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
# By the size of a number in bytes: how far eight bytes read at once are shifted so that those
# beyond its end fall out at the top.
_SHIFTS = np.arange(64, -1, -8, dtype=np.uint64)
_SHIFTS[0] = 0  # there is no empty unit


class UnitKeys:
    """Heads, tails and slots of the units between `positions` of a window of text.

    A number is up to 8 bytes, little endian, moved to the top. The head is a unit's first 8 bytes,
    the tail the rest, or 0. No two units without NUL bytes share both numbers: a head of fewer than
    8 bytes has 0 as its lowest byte, and a tail of at least a byte is not 0.

    Three kinds of units have no key, which is the head 0: those that hold a NUL byte, those of more
    than 16 bytes, and those within 16 bytes of the end of `text`, where 16 bytes cannot be read.
    """

    def __init__(self, text: Bytes, positions: Rows) -> None:
        num_units = len(positions) - 1
        self.heads = np.zeros(num_units, np.uint64)
        self.full_rows = np.empty(0, np.int64)
        self.tails = np.empty(0, np.uint64)
        last = len(text) - 2 * _KEY_BYTES
        count = int(np.searchsorted(positions[:-1], last, side="right")) if last >= 0 else 0
        if count:
            self._read(text, positions[: count + 1], last)
        self.slots = _hashed(self.heads * _MIX_HEAD)
        if len(self.full_rows):
            mixed = self.heads[self.full_rows] * _MIX_HEAD ^ self.tails * _MIX_TAIL
            self.slots[self.full_rows] = _hashed(mixed)

    def _read(self, text: Bytes, positions: Rows, last: int) -> None:
        every_number = np.ndarray((last + _KEY_BYTES + 1,), "<u8", text, strides=(1,))
        starts, sizes = positions[:-1], np.diff(positions)
        heads = self.heads[: len(starts)]
        # Clipped: a size above 8 takes the last shift, which is that of 8 bytes.
        np.left_shift(every_number[starts], _SHIFTS.take(sizes, mode="clip"), out=heads)
        full = np.flatnonzero(sizes >= _KEY_BYTES)
        fits = sizes[full] <= 2 * _KEY_BYTES
        heads[full[~fits]] = _NO_KEY
        if not text.all():
            nul = np.flatnonzero(text[: positions[-1]] == 0)
            heads[np.searchsorted(positions, nul, side="right") - 1] = _NO_KEY
        self.full_rows = full[fits]
        rest = sizes[self.full_rows] - _KEY_BYTES
        tails = every_number[starts[self.full_rows] + _KEY_BYTES]
        self.tails = np.left_shift(tails, _SHIFTS.take(rest))
        self.tails[rest == 0] = 0

    def missed(self, codes: Ids, heads: Numbers, tails: Numbers) -> Rows:
        """Rows whose code belongs to another unit; `heads` and `tails` are those of each code.

        Tails are compared only where the head has 8 bytes: a shorter head is a whole unit.
        """
        wrong = heads.take(codes) != self.heads
        full = self.full_rows
        if len(full):
            wrong[full] |= tails.take(codes.take(full)) != self.tails
        return np.flatnonzero(wrong)

    def numbers(self, rows: Rows) -> tuple[Numbers, Numbers]:
        """Heads and tails of these rows."""
        tails = np.zeros(len(rows), np.uint64)
        if len(self.full_rows):
            at = np.searchsorted(self.full_rows, rows)
            np.minimum(at, len(self.full_rows) - 1, out=at)
            is_full = self.full_rows.take(at) == rows
            tails[is_full] = self.tails[at[is_full]]
        return self.heads.take(rows), tails


def _hashed(mixed: NDArray[np.uint64]) -> Rows:
    mixed >>= np.uint64(64 - _SLOT_BITS)
    return mixed.view(np.int64)


class UnitTable:
    """Units by code, from 1 on. Units are only added, by a thread that holds the encoder's lock."""

    def __init__(self) -> None:
        self.codes: dict[bytes, int] = {}
        self.num_bytes = 0
        self.slots = np.zeros(1 << _SLOT_BITS, np.int32)
        self.heads = np.full(1 << 10, _RESERVED, np.uint64)
        self.tails = np.zeros(1 << 10, np.uint64)
        self._num_codes, self._num_ids = 1, 0
        self._ends = np.zeros(1 << 10, np.int32)
        self._ids = np.zeros(1 << 12, np.int32)

    def find(self, units: list[bytes]) -> Ids:
        """The code of each unit [len(units)], -1 where it is new."""
        return np.fromiter(map(self.codes.get, units, repeat(-1)), np.int32, len(units))

    def add(
        self, units: list[bytes], ids: Ids, lengths: Ids, heads: Numbers, tails: Numbers
    ) -> Ids:
        """The codes of new units. A unit that another thread added meanwhile gets a second code."""
        first, last = self._num_codes, self._num_codes + len(units)
        ends = np.cumsum(lengths, dtype=np.int64) + self._num_ids
        self._ids = _put(self._ids, self._num_ids, ids)
        # Ends in bytes, moved on by 1: `_ends[code]` is where the ids of `code` begin.
        self._ends = _put(self._ends, first + 1, ends * 4)
        self.tails = _put(self.tails, first, tails)
        self.heads = _put(self.heads, first, heads)
        self._num_codes, self._num_ids = last, self._num_ids + len(ids)
        self.num_bytes += sum(map(len, units))
        self.codes.update(zip(units, range(first, last), strict=True))
        return np.arange(first, last, dtype=np.int32)

    def ids_by_code(self) -> pa.Array:
        """The ids of every code so far, as binary values of four bytes an id, without a copy."""
        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._ids)]
        return pa.Array.from_buffers(pa.binary(), self._num_codes, buffers)


def _numbers_of(unit: bytes) -> tuple[int, int]:
    """Head and tail as `UnitKeys` makes them."""
    size = len(unit)
    if size > 2 * _KEY_BYTES or 0 in unit:
        return 0, 0
    head, tail = unit[:_KEY_BYTES], unit[_KEY_BYTES:]
    return (
        int.from_bytes(head, "little") << 8 * (_KEY_BYTES - len(head)),
        int.from_bytes(tail, "little") << 8 * (_KEY_BYTES - len(tail)),
    )


class UnitEncoder:
    """SentencePiece, asked once for each distinct unit, from any number of threads."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, guard: str) -> None:
        self._processor, self._guard = processor, guard
        self._guard_ids = len(processor.encode(guard))
        self._lock = threading.Lock()
        self.table = UnitTable()

    def encode(self, text: Bytes, positions: Rows) -> tuple[Ids, Ids]:
        """(flat ids, number of ids before each position) of the units between `positions`."""
        with self._lock:
            # Threads that use the full table at this moment finish with it.
            if len(self.table.codes) > MOST_UNITS or self.table.num_bytes > MOST_UNIT_BYTES:
                self.table = UnitTable()
            table = self.table
        keys = UnitKeys(text, positions)
        codes = table.slots.take(keys.slots)
        with self._lock:
            # A code was written into a slot under the lock, after its head and tail. So every code
            # read above has its numbers in these arrays.
            heads, tails = table.heads, table.tails
        missed = keys.missed(codes, heads, tails)
        if len(missed):
            codes[missed] = self._look_up(table, text, positions, missed, keys)
            with_key = missed[keys.heads[missed] != _NO_KEY]
            with self._lock:
                table.slots[keys.slots[with_key]] = codes[with_key]
        with self._lock:
            ids_by_code = table.ids_by_code()
        chosen = pa.Array.from_buffers(pa.int32(), len(codes), [None, pa.py_buffer(codes)])
        _, offsets, flat = call("take", ids_by_code, chosen).buffers()
        return (
            np.frombuffer(flat, np.int32),
            np.frombuffer(offsets, np.int32)[: len(positions)] // 4,
        )

    def _look_up(
        self, table: UnitTable, text: Bytes, positions: Rows, rows: Rows, keys: UnitKeys
    ) -> Ids:
        """Codes of these units, by their bytes; new ones are encoded and added."""
        buffers = [None, pa.py_buffer(positions), pa.py_buffer(text)]
        units = pa.Array.from_buffers(pa.large_binary(), len(positions) - 1, buffers)
        encoded = call("dictionary_encode", call("take", units, integers(rows)))
        distinct = encoded.dictionary.to_pylist()
        indices = np.frombuffer(encoded.indices.buffers()[1], np.int32)[: len(rows)]
        codes = table.find(distinct)
        new_rows = np.flatnonzero(codes < 0)
        if len(new_rows):
            new = [distinct[row] for row in new_rows.tolist()]
            some_row = np.zeros(len(distinct), np.int64)
            some_row[indices] = rows
            heads, tails = keys.numbers(some_row.take(new_rows))
            # Units at the end of the text, which `UnitKeys` could not read; long units stay at 0.
            for row in np.flatnonzero(heads == _NO_KEY).tolist():
                heads[row], tails[row] = _numbers_of(new[row])
            # Without the lock, as SentencePiece lets other threads run meanwhile.
            texts = [self._guard + unit.decode() for unit in new]
            guarded = self._processor.encode(texts, num_threads=1)
            ids, lengths = flatten([numbers[self._guard_ids :] for numbers in guarded])
            with self._lock:
                codes[new_rows] = table.add(new, ids, lengths, heads, tails)
        return codes.take(indices)


def _put(array: NDArray, first: int, values: NDArray) -> NDArray:
    """`array` with `values` from index `first` on; a larger copy when they do not fit."""
    needed = first + len(values)
    if needed > len(array):
        more = np.zeros(max(needed - len(array), len(array)), array.dtype)
        array = np.concatenate((array, more))
    array[first:needed] = values
    return array
