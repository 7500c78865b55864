"""Which names a pickle may mention, by the kind of file that holds it.

A list gives each name a check of the arguments that it may be called with: None for any arguments,
`_never` for a name that may be mentioned and not called. Nothing on the lists can run a command or
import a module, whatever its arguments are: classes that only hold values, dtypes, and functions
that make tensors and arrays of given numbers.
"""

from ml_models.files.inert import Name
from ml_models.files.pickles import AllowList, ArgumentCheck

Checks = dict[str, ArgumentCheck | None]


def _latin1_text(arguments: tuple[object, ...]) -> bool:
    return len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"


def _never(_: tuple[object, ...]) -> bool:
    return False


def _no_arguments(arguments: tuple[object, ...]) -> bool:
    return not arguments


def _empty_array(arguments: tuple[object, ...]) -> bool:
    return len(arguments) == 3 and arguments[1] == (0,)


def _single_list(arguments: tuple[object, ...]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], list)


def _uncallable(module: str, *names: str) -> Checks:
    return {f"{module}.{name}": _never for name in names}


def _names(module: str, *names: str) -> Checks:
    return {f"{module}.{name}": None for name in names}


_DCP_ENUMS = {
    **_names("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    **_names("torch.distributed.checkpoint.planner", "WriteItemType"),
}
_MEGATRON_ENUMS = {
    **_names("megatron.core.enums", "ModelType"),
    **_names("megatron.core.transformer.enums", "AttnBackend", "AttnMaskType", "CudaGraphScope"),
}
_ENUMS = frozenset({*_DCP_ENUMS, *_MEGATRON_ENUMS})


def _member_of_enum(arguments: tuple[object, ...]) -> bool:
    """getattr(ENUM, "MEMBER"): how Python 3.11.2 (Debian 12's) pickles a member."""
    return (
        len(arguments) == 2
        and isinstance(arguments[0], Name)
        and str(arguments[0]) in _ENUMS
        and isinstance(arguments[1], str)
        and not arguments[1].startswith("_" * 2)
    )


_GETATTR: Checks = {
    "builtins.getattr": _member_of_enum,
    "__builtin__.getattr": _member_of_enum,  # its name in protocol 2, which torch.save writes
}


_NUMPY: Checks = {
    "numpy.dtype": None,
    "numpy.ndarray": _never,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
}
# torch names the folder of a checkpoint in it, and Python 3.13 calls the path's module otherwise.
_PATHS: Checks = {
    **_names("pathlib", "PosixPath", "PurePosixPath"),
    **_names("pathlib._local", "PosixPath", "PurePosixPath"),
}
# Members of enums are shared by the whole process, so that no stream may change them.
_UNCHANGEABLE = frozenset({*_ENUMS, *_GETATTR})

XAI_SHARD = AllowList(
    {
        **_NUMPY,
        "ml_dtypes.bfloat16": _never,
        "__main__.QuantizedWeight8bit": _no_arguments,
    },
    _UNCHANGEABLE,
)
"""A file of xAI's release."""
_TORCH_DTYPES = _uncallable(
    "torch",
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"),
    *("bool", "float8_e4m3fn", "float8_e5m2"),
)
DCP_METADATA = AllowList(
    {
        **_TORCH_DTYPES,
        **_GETATTR,
        **_DCP_ENUMS,
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
        **_PATHS,
    },
    _UNCHANGEABLE,
)
"""`.metadata` of a distributed checkpoint."""
_TORCH_OBJECTS: Checks = {
    **_TORCH_DTYPES,
    **_NUMPY,
    **_GETATTR,
    **_names("torch._utils", "_rebuild_tensor_v2", "_rebuild_parameter"),
    **_uncallable(
        "torch",
        *("FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage"),
        *("IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"),
    ),
    **_uncallable("torch.storage", "UntypedStorage"),
    **_names("torch", "Size", "device"),
    "__builtin__.bytes": _no_arguments,
    "__builtin__.set": _single_list,
    **_names("collections", "OrderedDict", "deque"),
    **_names("argparse", "Namespace"),
    **_names("datetime", "timedelta"),
    **_PATHS,
    **_MEGATRON_ENUMS,
    **_names("numpy.core.multiarray", "scalar"),
    **_names("numpy._core.multiarray", "scalar"),
    "_codecs.encode": _latin1_text,
}
TORCH_OBJECTS = AllowList(_TORCH_OBJECTS, _UNCHANGEABLE)
"""Objects in torch's zip format: run state, random state, what Megatron-LM keeps in common.pt."""
_TRAINERS = frozenset({"megatron", "mindspeed", "mindspeed_llm", "modellink"})


def _member_of_trainers_enum(arguments: tuple[object, ...]) -> bool:
    trainer = (
        len(arguments) == 2
        and isinstance(arguments[0], Name)
        and arguments[0].module.split(".")[0] in _TRAINERS
        and isinstance(arguments[1], str)
        and not arguments[1].startswith("_" * 2)
    )
    return trainer or _member_of_enum(arguments)


RANK_FILE = AllowList(
    {
        **_TORCH_OBJECTS,
        **dict.fromkeys(_GETATTR, _member_of_trainers_enum),
        **_names("_io", "BytesIO"),  # TransformerEngine's _extra_state
        **_names("types", "SimpleNamespace"),
        **_names("signal", "Signals"),  # --exit-signal
        **_names("collections", "defaultdict"),
        **_uncallable("__builtin__", "dict", "list", "int", "float"),
    },
    _UNCHANGEABLE,
    packages=_TRAINERS,
)
"""TORCH_OBJECTS and what a run keeps beside its weights in Megatron's per-rank files.

Such files are read by ml_models alone and never by a library, so that any name of the trainers'
own packages may stand in them (the class of an argument, say): it stays an inert Name.
"""
