"""Read pickle streams from a user's files without running what they say.

A pickle is a program. Here it is interpreted, not run: every name it mentions must be on an
allow-list and becomes an inert `Name`; calling one gives an inert `Call`; anything else (a call of
a result, a change to a named object) is refused. Large byte strings stay in the file as `Span`, so
that a 1.6 GB shard is inspected in a few kilobytes. Only after this may a library unpickle the
stream.

pickletools.genops takes the stream apart, this module keeps the stack. Trade-off: it is slow per
instruction; the streams here hold thousands of them, not millions.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from ml_models.errors import WeightError
from ml_models.files.inert import Call, Name, Span

ArgumentCheck = Callable[[tuple[object, ...]], bool]
MAX_PICKLE_BYTES = 512 * 2**20
"""Of a stream that is read whole; the release's .metadata has less than 1 MB."""
SPAN_BYTES = 65536
"""Byte strings longer than this become a Span."""


@dataclass(frozen=True)
class AllowList:
    """The names that a kind of file may mention."""

    checks: Mapping[str, ArgumentCheck | None]
    """Name -> the check of the arguments of a call; None for a call with any arguments."""
    unchangeable: frozenset[str] = field(default_factory=frozenset)
    """Names whose results are shared by everybody who uses them, such as members of an enum."""
    packages: frozenset[str] = field(default_factory=frozenset)
    """Packages of which any name may stand in a file that no library reads afterwards."""

    def __contains__(self, name: object) -> bool:
        return name in self.checks or str(name).split(".")[0] in self.packages

    def check_of(self, name: Name) -> ArgumentCheck | None:
        """The check of the arguments that a name on the list is called with."""
        return self.checks.get(str(name))


def interpret(file: BinaryIO, what: str, allowed: AllowList) -> object:
    """The inert form of one pickle; WeightError names `what` and the first thing not allowed."""
    try:
        return _Interpreter(file, what, allowed).run()
    except WeightError:
        raise
    except RecursionError as error:
        raise WeightError(
            f"{what}: its pickle is nested too deeply; the file is refused."
        ) from error
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise WeightError(f"{what}: damaged or truncated pickle ({error}).") from error


class _Stream:
    """The file as pickletools.genops reads it, except that long byte strings are left in place.

    genops reads the instruction's code first, then its argument. `begin` is called before each
    instruction, so that the first read after it is known to be the code. A Span in place of the
    bytes satisfies genops: it compares the length alone and hands the value through.
    """

    def __init__(self, file: BinaryIO, refuse: Callable[[str], WeightError]) -> None:
        self._file, self._refuse = file, refuse
        self._size = file.seek(0, io.SEEK_END)
        self._code = b""
        file.seek(0)
        self.readline, self.tell = file.readline, file.tell

    def begin(self) -> None:
        """Expect the code of an instruction."""
        self._code = b""

    def read(self, length: int) -> bytes:
        """The next bytes; a Span where they are the data of a long byte string."""
        if not self._code:
            self._code = self._file.read(length)
            return self._code
        offset = self._file.tell()
        if offset + length > self._size:
            raise self._refuse("its pickle is truncated")
        if length > SPAN_BYTES and self._code in (pickle.BINBYTES, pickle.BINBYTES8):
            self._file.seek(length, io.SEEK_CUR)
            return cast(bytes, Span(offset, length))
        return self._file.read(length)


class _Interpreter:
    """Walks one pickle stream; see the module's text."""

    def __init__(self, file: BinaryIO, what: str, allowed: AllowList) -> None:
        self._what, self._allowed = what, allowed
        self._stream = _Stream(file, self._refuse)
        self._stack: list[object] = []
        self._below: list[list[object]] = []
        """The stacks below each MARK that is open."""
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """The value that the stream makes."""
        instructions = pickletools.genops(cast(BinaryIO, self._stream))
        while True:
            self._stream.begin()
            opcode, argument, _ = next(instructions)
            if opcode.name == "STOP":
                return self._stack.pop()
            execute = _INSTRUCTIONS.get(opcode.name)
            if execute is None:
                raise self._refuse("its pickle uses an instruction that such files do not need")
            execute(self, argument)

    def _refuse(self, reason: str) -> WeightError:
        return WeightError(
            f"{self._what}: {reason}; the file is refused and nothing of it was run."
        )

    # Plain values. The stack holds nothing but them, Name, Call and Span.

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def top(self) -> object:
        """The value on top of the stack, which stays there."""
        return self._stack[-1]

    def pop(self) -> object:
        """Take the value on top of the stack."""
        return self._stack.pop()

    def push_tuple(self, size: int) -> None:
        """Put the last values together."""
        items = [self._stack.pop() for _ in range(size)]
        self._stack.append(tuple(items[::-1]))

    def mark(self) -> None:
        """Begin a list of values that a later instruction takes as a whole."""
        self._below.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[object]:
        """Take everything above the last mark, and the mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def drop(self) -> None:
        """Forget the value on top, or the mark where it is on top."""
        if self._stack:
            self._stack.pop()
        else:
            self.drop_mark()

    def drop_mark(self) -> None:
        """Forget everything above the last mark, and the mark."""
        self._stack = self._below.pop()

    def extend(self, values: list[object]) -> None:
        """Append values to the list on top of the stack."""
        target = self._stack[-1]
        if not isinstance(target, (list, Call)):
            raise pickle.UnpicklingError("it appends to something that is no list")
        target.extend(values)

    def set_items(self, items: list[object]) -> None:
        """Set keys and values, which alternate, of the dict on top of the stack."""
        target = self._stack[-1]
        if not isinstance(target, (dict, Call)):
            raise pickle.UnpicklingError("it sets items of something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    def add_items(self, items: list[object]) -> None:
        """Add values to the set on top of the stack."""
        target = self._stack[-1]
        if not isinstance(target, set):
            raise pickle.UnpicklingError("it adds to something that is no set")
        target.update(items)

    def memoize(self, key: int | None) -> None:
        """Keep the value on top of the stack under a number; None for the next one."""
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def recall(self, key: int) -> None:
        """Put a kept value on the stack again."""
        self._stack.append(self._memo[key])

    # Names and calls: the instructions that could run something.

    def push_name(self, module: object, name: object) -> None:
        """Put a Name on the stack, if the allow-list has it."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise pickle.UnpicklingError("a name that is no text")
        if f"{module}.{name}" not in self._allowed:
            raise self._refuse(f"its pickle asks for {module}.{name}, which is not allowed there")
        self._stack.append(Name(module, name))

    def call(self, keywords: object = None) -> None:
        """Put a Call on the stack for a name and its arguments."""
        if keywords:
            raise self._refuse("its pickle makes an object with keyword arguments")
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Name):
            raise self._refuse("its pickle calls something that is no allowed name")
        if not isinstance(arguments, tuple):
            raise self._refuse(f"its pickle calls {function} with arguments of the wrong kind")
        check = self._allowed.check_of(function)
        if check is not None and not check(arguments):
            raise self._refuse(f"its pickle calls {function} with arguments that are not allowed")
        self._stack.append(Call(function, arguments))

    def build(self) -> None:
        """Give the object on top of the stack its state."""
        state = self._stack.pop()
        target = self._stack[-1]
        if not isinstance(target, Call) or target.state is not None:
            raise self._refuse("its pickle changes an object that it did not make")
        if str(target.function) in self._allowed.unchangeable:
            raise self._refuse("its pickle changes a member of an enum")
        target.state = state

    def check_storage(self) -> None:
        """The value on top is torch's reference to a storage of the same archive, or refused."""
        reference = self._stack[-1]
        parts = reference if isinstance(reference, tuple) else ()
        # The class of the storage, its key in the archive, its device, its number of elements.
        if [type(part) for part in parts] != [str, Name, str, str, int] or parts[0] != "storage":
            raise self._refuse("its pickle refers to something that is no storage of the archive")

    def ignore(self) -> None:
        """A frame only says how many bytes to read at once."""

    def check_protocol(self, version: int) -> None:
        """The protocol is one that Python writes."""
        if version > pickle.HIGHEST_PROTOCOL:
            raise ValueError(f"unsupported pickle protocol: {version}")


def _dict_of(items: list[object]) -> dict[object, object]:
    """Keys and values that alternate, as a dict."""
    return dict(zip(items[::2], items[1::2], strict=True))


# Instructions that push their argument, by pickletools' names.
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
# What each instruction does; one that is missing here (INST, OBJ, EXT1, BYTEARRAY8, PERSID and
# others) is refused.
_INSTRUCTIONS: Mapping[str, Callable[[_Interpreter, Any], None]] = {
    **dict.fromkeys(_VALUES, lambda run, value: run.push(value)),
    "NONE": lambda run, _: run.push(None),
    "NEWTRUE": lambda run, _: run.push(True),
    "NEWFALSE": lambda run, _: run.push(False),
    "EMPTY_LIST": lambda run, _: run.push([]),
    "EMPTY_DICT": lambda run, _: run.push({}),
    "EMPTY_SET": lambda run, _: run.push(set()),
    "EMPTY_TUPLE": lambda run, _: run.push(()),
    "TUPLE1": lambda run, _: run.push_tuple(1),
    "TUPLE2": lambda run, _: run.push_tuple(2),
    "TUPLE3": lambda run, _: run.push_tuple(3),
    "MARK": lambda run, _: run.mark(),
    "TUPLE": lambda run, _: run.push(tuple(run.pop_mark())),
    "LIST": lambda run, _: run.push(run.pop_mark()),
    "DICT": lambda run, _: run.push(_dict_of(run.pop_mark())),
    "FROZENSET": lambda run, _: run.push(frozenset(run.pop_mark())),
    "APPEND": lambda run, _: run.extend([run.pop()]),
    "APPENDS": lambda run, _: run.extend(run.pop_mark()),
    "SETITEM": lambda run, _: run.set_items([run.pop(), run.pop()][::-1]),
    "SETITEMS": lambda run, _: run.set_items(run.pop_mark()),
    "ADDITEMS": lambda run, _: run.add_items(run.pop_mark()),
    "POP": lambda run, _: run.drop(),
    "POP_MARK": lambda run, _: run.drop_mark(),
    "DUP": lambda run, _: run.push(run.top()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda run, key: run.memoize(key)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda run, key: run.recall(key)),
    "MEMOIZE": lambda run, _: run.memoize(None),
    "GLOBAL": lambda run, names: run.push_name(*names.split(" ")),
    "STACK_GLOBAL": lambda run, _: run.push_name(*[run.pop(), run.pop()][::-1]),
    "REDUCE": lambda run, _: run.call(),
    "NEWOBJ": lambda run, _: run.call(),
    "NEWOBJ_EX": lambda run, _: run.call(keywords=run.pop()),
    "BUILD": lambda run, _: run.build(),
    "BINPERSID": lambda run, _: run.check_storage(),
    "PROTO": lambda run, version: run.check_protocol(version),
    "FRAME": lambda run, _: run.ignore(),
}
