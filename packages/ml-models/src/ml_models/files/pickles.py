"""Read pickle streams from a user's files without running what they say.

A pickle is a program. Here it is interpreted, not run: every name it mentions must be on an
allow-list and becomes an inert `Name`; calling one gives an inert `Call`; anything else (a call of
a result, a change to a named object) is refused. Large byte strings stay in the file as `Span`, so
a 1.6 GB shard is inspected in a few kilobytes. Only after this may a library unpickle the stream.

Trade-off: Python's interpreter of pickles (`pickle._Unpickler`) is slow per opcode; the streams
here hold thousands of opcodes, not millions.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from ml_models.errors import WeightError

# How torch.save began a file before 1.6: the pickle of the number 0x1950a86a20f9469cfc6c.
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
MAX_PICKLE_BYTES = 512 * 2**20  # of a stream that is read whole; the release's .metadata is < 1 MB

ArgumentCheck = Callable[[tuple[Any, ...]], bool]


@dataclass(frozen=True)
class Name:
    """A global that the stream mentions, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """What a call of a global would have given: its arguments, and the state set afterwards."""

    function: Name
    arguments: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def append(self, value: Any) -> None:
        """The stream appends to list-like objects."""
        self.items.append(value)

    def extend(self, values: Any) -> None:
        """The stream extends list-like objects."""
        self.items.extend(values)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


@dataclass(frozen=True)
class Span:
    """A byte string left where it is: `length` bytes at `offset` of the file."""

    offset: int
    length: int


def mapping_of(value: object) -> Mapping[object, object] | None:
    """A dict, or the inert form of an OrderedDict; None for anything else."""
    if isinstance(value, Call) and str(value.function) == "collections.OrderedDict":
        pairs = value.items
        good = all(isinstance(pair, tuple) and isinstance(pair[0], str) for pair in pairs)
        return dict(pairs) if good else None
    return value if isinstance(value, Mapping) else None


class Interpreter(pickle._Unpickler):
    """Walks one pickle stream; see the module's text."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    # What pickle._Unpickler.load sets up.
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    _unframer: Any
    SPAN_BYTES = 65536  # byte strings longer than this become a Span

    def __init__(
        self, file: BinaryIO, what: str, allowed: Mapping[str, ArgumentCheck | None]
    ) -> None:
        super().__init__(file, fix_imports=False, encoding="latin1")
        self._file = file
        self._what = what
        self._allowed = allowed
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def _refuse(self, reason: str) -> WeightError:
        return WeightError(
            f"{self._what}: {reason}; the file is refused and nothing of it was run."
        )

    def find_class(self, module: str, name: str) -> Any:
        """An inert Name, if the allow-list has it."""
        if f"{module}.{name}" not in self._allowed:
            raise self._refuse(f"its pickle asks for {module}.{name}, which is not allowed there")
        return Name(module, name)

    def _call(self, function: Any, arguments: Any) -> Call:
        if not isinstance(function, Name):
            raise self._refuse("its pickle calls something that is no allowed name")
        if not isinstance(arguments, tuple):
            raise self._refuse(f"its pickle calls {function} with arguments of the wrong kind")
        check = self._allowed[str(function)]
        if check is not None and not check(arguments):
            raise self._refuse(f"its pickle calls {function} with arguments that are not allowed")
        return Call(function, arguments)

    def persistent_load(self, pid: Any) -> Any:
        """torch's references to a storage in the same archive."""
        good = (
            isinstance(pid, tuple)
            and len(pid) == 5
            and pid[0] == "storage"
            and isinstance(pid[1], Name)
            and isinstance(pid[2], str)
            and isinstance(pid[3], str)
            and isinstance(pid[4], int)
        )
        if not good:
            raise self._refuse("its pickle refers to something that is no storage of the archive")
        return pid

    # One method per opcode that calls or changes objects; the others only build plain values.
    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack.append(self._call(self.stack.pop(), arguments))

    def load_newobj_ex(self) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        if keywords:
            raise self._refuse("its pickle makes an object with keyword arguments")
        self.stack.append(self._call(self.stack.pop(), arguments))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Call) or target.state is not None:
            raise self._refuse("its pickle changes an object that it did not make")
        if str(target.function) in ENUMS or str(target.function) in GETATTR:
            raise self._refuse("its pickle changes a member of an enum")
        target.state = state

    def load_refused(self) -> None:
        raise self._refuse("its pickle uses an instruction that such files do not need")

    def _span(self, length: int) -> None:
        frame = self._unframer.current_frame
        if length <= self.SPAN_BYTES or (frame is not None and frame.tell() < _length(frame)):
            data = self.read(length)
            if len(data) != length:
                raise self._refuse("its pickle is truncated")
            self.append(bytes(data))
            return
        if frame is not None:
            self._unframer.current_frame = None
        offset = self._file.tell()
        if offset + length > self._size:
            raise self._refuse("its pickle is truncated")
        self._file.seek(length, io.SEEK_CUR)
        self.append(Span(offset, length))

    def load_binbytes(self) -> None:
        self._span(struct.unpack("<I", self.read(4))[0])

    def load_binbytes8(self) -> None:
        self._span(struct.unpack("<Q", self.read(8))[0])


def _length(frame: io.BytesIO) -> int:
    return frame.getbuffer().nbytes


for _opcode, _method in (
    (pickle.REDUCE, Interpreter.load_reduce),
    (pickle.NEWOBJ, Interpreter.load_newobj),
    (pickle.NEWOBJ_EX, Interpreter.load_newobj_ex),
    (pickle.BUILD, Interpreter.load_build),
    (pickle.BINBYTES, Interpreter.load_binbytes),
    (pickle.BINBYTES8, Interpreter.load_binbytes8),
    (pickle.INST, Interpreter.load_refused),
    (pickle.OBJ, Interpreter.load_refused),
    (pickle.EXT1, Interpreter.load_refused),
    (pickle.EXT2, Interpreter.load_refused),
    (pickle.EXT4, Interpreter.load_refused),
    (pickle.BYTEARRAY8, Interpreter.load_refused),
    (pickle.NEXT_BUFFER, Interpreter.load_refused),
    (pickle.PERSID, Interpreter.load_refused),
):
    Interpreter.dispatch[_opcode[0]] = _method


def interpret(file: BinaryIO, what: str, allowed: Mapping[str, ArgumentCheck | None]) -> Any:
    """The inert form of one pickle; WeightError names `what` and the first thing not allowed."""
    try:
        return Interpreter(file, what, allowed).load()
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
        UnicodeDecodeError,
        struct.error,
        MemoryError,
    ) as error:
        raise WeightError(f"{what}: damaged or truncated pickle ({error}).") from error


def _one_of_codecs(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"


def _never(arguments: tuple[Any, ...]) -> bool:
    return False


def _no_arguments(arguments: tuple[Any, ...]) -> bool:
    return not arguments


def _empty_array(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 3 and arguments[1] == (0,)


def _one_list(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], list)


def _uncallable(module: str, *names: str) -> dict[str, ArgumentCheck | None]:
    return {f"{module}.{name}": _never for name in names}


def _names(module: str, *names: str) -> dict[str, ArgumentCheck | None]:
    return {f"{module}.{name}": None for name in names}


DCP_ENUMS = {
    **_names("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    **_names("torch.distributed.checkpoint.planner", "WriteItemType"),
}
MEGATRON_ENUMS = {
    **_names("megatron.core.enums", "ModelType"),
    **_names("megatron.core.transformer.enums", "AttnBackend", "AttnMaskType", "CudaGraphScope"),
}
ENUMS = frozenset({*DCP_ENUMS, *MEGATRON_ENUMS})


def _member_of_enum(arguments: tuple[Any, ...]) -> bool:
    """getattr(ENUM, "MEMBER"): how Python 3.11.2 (Debian 12's) pickles a member."""
    return (
        len(arguments) == 2
        and isinstance(arguments[0], Name)
        and str(arguments[0]) in ENUMS
        and isinstance(arguments[1], str)
        and not arguments[1].startswith("_" * 2)
    )


GETATTR: dict[str, ArgumentCheck | None] = {
    "builtins.getattr": _member_of_enum,
    "__builtin__.getattr": _member_of_enum,  # its name in protocol 2, which torch.save writes
}


NUMPY: dict[str, ArgumentCheck | None] = {
    "numpy.dtype": None,
    "numpy.ndarray": _never,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
}
XAI_SHARD: dict[str, ArgumentCheck | None] = {
    **NUMPY,
    "ml_dtypes.bfloat16": _never,
    "__main__.QuantizedWeight8bit": _no_arguments,
}
TORCH_DTYPES = _uncallable(
    "torch",
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"),
    *("bool", "float8_e4m3fn", "float8_e5m2"),
)
DCP_METADATA: dict[str, ArgumentCheck | None] = {
    **TORCH_DTYPES,
    **GETATTR,
    **DCP_ENUMS,
    **_names(
        "torch.distributed.checkpoint.metadata",
        *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "MetadataIndex", "StorageMeta"),
    ),
    **_names("torch.distributed.checkpoint.filesystem", "_StorageInfo", "_StoragePrefix"),
    **_names(
        "torch.distributed.checkpoint.planner",
        *("SavePlan", "WriteItem", "TensorWriteData", "BytesIOWriteData"),
    ),
    "torch.Size": None,
    "torch.strided": _never,
    **_names("torch.serialization", "_get_layout"),
    **_names("collections", "OrderedDict"),
    **_names("pathlib", "PosixPath", "PurePosixPath"),
}
# Objects in torch's zip format: run state, random state, what Megatron-LM keeps in common.pt.
TORCH_OBJECTS: dict[str, ArgumentCheck | None] = {
    **TORCH_DTYPES,
    **NUMPY,
    **GETATTR,
    **_names("torch._utils", "_rebuild_tensor_v2", "_rebuild_parameter"),
    **_uncallable(
        "torch",
        *("FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage"),
        *("IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"),
    ),
    **_uncallable("torch.storage", "UntypedStorage"),
    **_names("torch", "Size", "device"),
    "__builtin__.bytes": _no_arguments,
    "__builtin__.set": _one_list,
    **_names("collections", "OrderedDict", "deque"),
    **_names("argparse", "Namespace"),
    **_names("datetime", "timedelta"),
    **_names("pathlib", "PosixPath", "PurePosixPath"),
    **MEGATRON_ENUMS,
    **_names("numpy.core.multiarray", "scalar"),
    **_names("numpy._core.multiarray", "scalar"),
    "_codecs.encode": _one_of_codecs,
}


class _RankFileNames(dict[str, ArgumentCheck | None]):
    """TORCH_OBJECTS and what a run keeps beside its weights in Megatron's per-rank files.

    Such files are read by this module alone and never by a library, so any name of the trainers'
    own packages may stand in them (the class of an argument, say): it stays an inert Name.
    """

    TRAINERS = ("megatron", "mindspeed", "mindspeed_llm", "modellink")

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or str(name).split(".")[0] in self.TRAINERS

    def __missing__(self, name: str) -> ArgumentCheck | None:
        return None


def _member_of_trainers_enum(arguments: tuple[Any, ...]) -> bool:
    trainer = (
        len(arguments) == 2
        and isinstance(arguments[0], Name)
        and arguments[0].module.split(".")[0] in _RankFileNames.TRAINERS
        and isinstance(arguments[1], str)
        and not arguments[1].startswith("_" * 2)
    )
    return trainer or _member_of_enum(arguments)


RANK_FILE = _RankFileNames(
    {
        **TORCH_OBJECTS,
        **dict.fromkeys(GETATTR, _member_of_trainers_enum),
        **_names("_io", "BytesIO"),  # TransformerEngine's _extra_state
        **_names("types", "SimpleNamespace"),
        **_names("signal", "Signals"),  # --exit-signal
        **_names("collections", "defaultdict"),
        **_uncallable("__builtin__", "dict", "list", "int", "float"),
    }
)


class _Restricted(pickle.Unpickler):
    """The second lock: the real classes, by the same allow-list."""

    allowed: Mapping[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def load_metadata(folder: Path) -> Any:
    """`.metadata` of a torch distributed checkpoint as torch's Metadata, checked first."""
    path = folder / ".metadata"
    if not path.is_file():
        raise WeightError(f"{folder}: no .metadata, so it is no distributed checkpoint.")
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise WeightError(f"{path}: larger than {MAX_PICKLE_BYTES} bytes; refused.")
    stream = path.read_bytes()
    interpret(io.BytesIO(stream), str(path), DCP_METADATA)
    unpickler = _Restricted(io.BytesIO(stream))
    unpickler.allowed = DCP_METADATA
    try:
        metadata = unpickler.load()
    except Exception as error:
        raise WeightError(f"{path}: cannot be read ({error}).") from error
    for info in _storage(metadata, path).values():
        name = str(info.relative_path)
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise WeightError(f"{path}: it points outside the folder, to {name!r}; refused.")
    return metadata


def _storage(metadata: Any, path: Path) -> dict[Any, Any]:
    storage = getattr(metadata, "storage_data", None)
    tensors = getattr(metadata, "state_dict_metadata", None)
    if not isinstance(storage, dict) or not isinstance(tensors, dict):
        raise WeightError(f"{path}: it holds no list of tensors and files.")
    return storage


def inspect_torch_zip(
    file: BinaryIO, what: str, allowed: Mapping[str, ArgumentCheck | None] | None = None
) -> tuple[Any, zipfile.ZipFile]:
    """The inert object of a torch.save archive and the archive; refuses what torch might run.

    `allowed` is TORCH_OBJECTS unless given.

    torch looks an entry up with another zip reader than Python's, so whatever two readers could
    see differently (two entries of one name, leading or trailing bytes) is refused.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 22))
    end = file.read(22)
    file.seek(0)
    start = file.read(len(OLD_FORMAT))
    if start == OLD_FORMAT:
        raise WeightError(
            f"{what}: in the format that torch.save wrote before 1.6, which is not read; load it "
            "there and save it again."
        )
    if start[:4] != b"PK\x03\x04" or end[:4] != b"PK\x05\x06":
        raise WeightError(f"{what}: not in torch's zip format, or truncated; refused.")
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        folders = {name.split("/", 1)[0] for name in names}
        if len({name.lower() for name in names}) != len(names) or len(folders) != 1:
            raise WeightError(f"{what}: entries that two zip readers see differently; refused.")
        if min(entry.header_offset for entry in entries) != 0:
            raise WeightError(f"{what}: bytes before the first zip entry; refused.")
        top = folders.pop()
        pickles = [name for name in names if name.lower().endswith(".pkl")]
        scripts = [name for name in names if name.lower().startswith(f"{top}/code".lower())]
        if pickles != [f"{top}/data.pkl"] or scripts:
            raise WeightError(f"{what}: not a plain torch.save archive; refused.")
        if archive.getinfo(pickles[0]).file_size > MAX_PICKLE_BYTES:
            raise WeightError(f"{what}: its pickle exceeds {MAX_PICKLE_BYTES} bytes; refused.")
        stream = archive.read(pickles[0])
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise WeightError(f"{what}: damaged zip archive ({error}).") from error
    return interpret(io.BytesIO(stream), what, allowed or TORCH_OBJECTS), archive


class FileSlice(io.RawIOBase):
    """`length` bytes at `offset` of a file, as a file of its own."""

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self._file = path.open("rb")
        self._offset, self._size, self._at = offset, length, 0
        if offset < 0 or length < 0 or offset + length > path.stat().st_size:
            self._file.close()
            raise WeightError(f"{path}: truncated, {length} bytes at {offset} are not all there.")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_slice(path: Path, offset: int, length: int) -> BinaryIO:
    """A buffered FileSlice."""
    return cast(BinaryIO, io.BufferedReader(FileSlice(path, offset, length)))


def check_distributed_checkpoint(
    path: str | Path, allowed: Mapping[str, ArgumentCheck | None] | None = None
) -> None:
    """Refuse a distributed checkpoint whose pickles ask for more than their allow-lists.

    Reads `.metadata`, `common.pt` and every object kept as pickle inside the .distcp files (those
    torch loads without restriction). WeightError names the file; megatron-core or torch may read
    the folder after this returns, unless `allowed` is more than TORCH_OBJECTS: who gives RANK_FILE
    reads tensors alone.
    """
    import json

    folder = Path(path)
    if not folder.is_dir():
        raise WeightError(f"{folder}: no such folder.")
    backend = folder / "metadata.json"
    if backend.is_file():
        try:
            named = json.loads(backend.read_text(encoding="utf-8"))
            kinds = (named["sharded_backend"], named.get("common_backend", "torch"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightError(f"{backend}: damaged ({error}).") from error
        if kinds != ("torch_dist", "torch"):
            raise WeightError(f"{backend}: format {kinds[0]}; only torch_dist is read.")
    metadata = load_metadata(folder)
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    for index, info in metadata.storage_data.items():
        entry = metadata.state_dict_metadata.get(index.fqn)
        if entry is None or isinstance(entry, BytesStorageMetadata):
            where = folder / info.relative_path
            if not where.is_file():
                raise WeightError(f"{where}: missing, though .metadata names it.")
            with open_slice(where, int(info.offset), int(info.length)) as stream:
                inspect_torch_zip(stream, f"{where} ({index.fqn})", allowed)
    common = folder / "common.pt"
    if common.is_file():
        with common.open("rb") as stream:
            inspect_torch_zip(stream, str(common), allowed)
