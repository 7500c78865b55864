"""Write pickle streams without the classes that they name: the inverse of `pickles.interpret`.

Takes the inert `Name` and `Call` that the interpreter gives, and byte strings that come in blocks.
The stream is what Python's own pickler writes in protocol 4, to the byte:

```
80 04                     protocol
95 LENGTH(8) OPCODES ..   a frame, closed by the first value that begins after 64 KiB of it
42 LENGTH(4) BYTES ..     a byte string of 64 KiB or more stands between two frames
95 LENGTH(8) OPCODES ..   the next frame; of fewer than 4 bytes, the header is left out
```
"""

import pickle
import struct
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from ml_models.errors import WeightError
from ml_models.files.inert import Call, Name

PROTOCOL = 4
# Both as in Python's pickler, pickle._Framer: the streams must be equal to the byte.
FRAME_BYTES = 64 * 2**10
SHORTEST_FRAME = 4
# Short tuples have instructions of their own, which need no mark.
TUPLES = {1: pickle.TUPLE1, 2: pickle.TUPLE2, 3: pickle.TUPLE3}


@dataclass(frozen=True)
class ByteBlocks:
    """A byte string of `size` bytes; `blocks` is called once, when its turn comes."""

    size: int
    blocks: Callable[[], Iterable[memoryview]]


class PickleWriter:
    """Writes one value. A `Call` without arguments is an instance (NEWOBJ), others are calls."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write
        self._frame = bytearray()
        self._memo: dict[Hashable, int] = {}

    def dump(self, value: object) -> None:
        """The whole stream."""
        self._write(pickle.PROTO + bytes([PROTOCOL]))
        self._save(value)
        self._frame += pickle.STOP
        self._close_frame()

    def _close_frame(self) -> None:
        if len(self._frame) >= SHORTEST_FRAME:
            self._write(pickle.FRAME + struct.pack("<Q", len(self._frame)))
        self._write(bytes(self._frame))
        self._frame.clear()

    def _save(self, value: object) -> None:
        """A value, in a new frame if the open one is full."""
        if len(self._frame) >= FRAME_BYTES:
            self._close_frame()
        if isinstance(value, (tuple, dict, Call)):
            self._save_composite(value)
        elif value is None:
            self._frame += pickle.NONE
        elif isinstance(value, bool):
            self._frame += pickle.NEWTRUE if value else pickle.NEWFALSE
        elif isinstance(value, int):
            # Python's own bytes for it, without the PROTO and STOP around them.
            self._frame += pickle.dumps(value, 2)[2:-1]
        else:
            self._save_once(value)

    def _save_composite(self, value: "tuple[object, ...] | dict[str, object] | Call") -> None:
        """A value that holds others. It is never the same as an earlier one."""
        if isinstance(value, tuple):
            self._tuple(value)
        elif isinstance(value, dict):
            self._dict(value)
        else:
            self._call(value)

    def _save_once(self, value: object) -> None:
        """A value whose second occurrence is a reference to the first."""
        match value:
            case str():
                self._once(("text", value), lambda: self._text(value))
            case bytes():
                self._once(("bytes", value), lambda: self._bytes(len(value), [memoryview(value)]))
            case ByteBlocks():
                self._bytes(value.size, value.blocks())
                self._memoize(id(value))
            case Name():
                self._once(("name", str(value)), lambda: self._name(value))
            case _:
                raise TypeError(f"{type(value).__name__} has no place in these pickles")

    def _memoize(self, key: Hashable) -> None:
        self._memo[key] = len(self._memo)
        self._frame += pickle.MEMOIZE

    def _once(self, key: Hashable, save: Callable[[], None]) -> None:
        """Save a value, or refer to the one with the same key that the stream has already."""
        index = self._memo.get(key)
        if index is None:
            save()
            self._memoize(key)
        else:
            self._frame += (
                pickle.BINGET + bytes([index])
                if index < 256
                else pickle.LONG_BINGET + struct.pack("<I", index)
            )

    def _text(self, value: str) -> None:
        data = value.encode()
        if len(data) > 255:
            raise TypeError(f"a text of {len(data)} bytes has no place in these pickles")
        self._frame += pickle.SHORT_BINUNICODE + bytes([len(data)]) + data

    def _name(self, value: Name) -> None:
        self._save(value.module)
        self._save(value.name)
        self._frame += pickle.STACK_GLOBAL

    def _bytes(self, size: int, blocks: Iterable[memoryview]) -> None:
        if size < 256:
            header = pickle.SHORT_BINBYTES + bytes([size])
        elif size < 2**32:
            header = pickle.BINBYTES + struct.pack("<I", size)
        else:
            header = pickle.BINBYTES8 + struct.pack("<Q", size)
        # Long byte strings stand outside of frames, so that no reader has to hold frame and bytes.
        apart = size >= FRAME_BYTES
        if apart:
            self._close_frame()
            self._write(header)
        else:
            self._frame += header
        written = 0
        for block in blocks:
            written += block.nbytes
            if apart:
                self._write(block)
            else:
                self._frame += block
        if written != size:
            raise WeightError(f"{written} bytes were made for an array of {size}; this is a bug.")

    def _tuple(self, value: tuple[object, ...]) -> None:
        if not value:
            self._frame += pickle.EMPTY_TUPLE
            return
        if len(value) not in TUPLES:
            self._frame += pickle.MARK
        for item in value:
            self._save(item)
        self._frame += TUPLES.get(len(value), pickle.TUPLE)
        self._memoize(("tuple", len(self._memo)))

    def _dict(self, value: dict[str, object]) -> None:
        self._frame += pickle.EMPTY_DICT
        self._memoize(("dict", len(self._memo)))
        self._frame += pickle.MARK
        for key, item in value.items():
            self._save(key)
            self._save(item)
        self._frame += pickle.SETITEMS

    def _call(self, value: Call) -> None:
        self._save(value.function)
        self._save(value.arguments)
        self._frame += pickle.REDUCE if value.arguments else pickle.NEWOBJ
        self._memoize(("call", id(value)))
        if value.state is not None:
            self._save(value.state)
            self._frame += pickle.BUILD
