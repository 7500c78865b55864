"""Where the tensors of a torch.save archive lie, without unpickling it.

```
NAME/data.pkl      the object; a tensor is (storage KEY, first element, size, stride)
NAME/data/KEY      the numbers of a storage, uncompressed; several tensors may share it
NAME/byteorder     "little", as a rule
```
An archive may be a file of its own (Megatron's per-rank files) or a part of one (.distcp).
"""

from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

import torch

from ml_models.errors import WeightError
from ml_models.files.inert import Call
from ml_models.weights.arrays import StoredTensor
from ml_models.weights.boxes import Shape

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.HalfStorage": torch.float16,
    "torch.DoubleStorage": torch.float64,
}
"""torch's names of typed storages -> the dtype of their numbers."""
NEGATED = {"conj", "neg"}  # flags of a tensor whose numbers are not what is stored
_LITTLE = b"little"
# In the local header of a zip entry: where the lengths of name and extra field stand, and its size
# without both.
_LENGTHS_OFFSET, _LOCAL_HEADER_BYTES = 26, 30


def tensor_call(value: object) -> Call | None:
    """The call that rebuilds a tensor, also where a Parameter is rebuilt from it."""
    if isinstance(value, Call) and str(value.function) == "torch._utils._rebuild_parameter":
        value = value.arguments[0] if value.arguments else None
    return value if isinstance(value, Call) else None


class ArchivedTensors:
    """Finds tensors of an archive that starts at `base` of the file `path`."""

    def __init__(self, archive: ZipFile, stream: BinaryIO, path: Path, base: int = 0) -> None:
        self._stream, self._path, self._base = stream, path, base
        names = archive.namelist()
        self._top = names[0].split("/")[0]
        self._entries: dict[str, ZipInfo] = dict(zip(names, archive.infolist(), strict=True))
        self._is_little_endian = self._byte_order(archive) == _LITTLE

    def _byte_order(self, archive: ZipFile) -> bytes:
        entry = self._entries.get(f"{self._top}/byteorder")
        if entry is None:
            return _LITTLE
        if entry.file_size > len(_LITTLE):
            return b"unknown"
        try:
            return archive.read(entry)
        except (BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
            raise WeightError(f"{self._path}: damaged zip archive ({error}).") from error

    def find(self, value: object) -> StoredTensor | None:
        """The place of an inert tensor; None unless its numbers lie row by row, uncompressed."""
        call = tensor_call(value)
        if call is None or str(call.function) != "torch._utils._rebuild_tensor_v2":
            return None
        if len(call.arguments) < 4 or not self._is_little_endian:
            return None
        # _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, flags)
        storage, first, size, stride = call.arguments[:4]
        flags = call.arguments[6] if len(call.arguments) > 6 else None
        if isinstance(flags, dict) and NEGATED & set(flags):
            return None
        if not isinstance(storage, tuple) or len(storage) < 3 or str(storage[1]) not in STORAGES:
            return None
        # A storage is the tuple that pickles.py has checked: ("storage", class, key, ...).
        shape, dtype = _row_major(size, stride), STORAGES[str(storage[1])]
        entry = self._entries.get(f"{self._top}/data/{storage[2]}")
        if shape is None or not _is_index(first) or entry is None or entry.compress_type:
            return None
        assert isinstance(first, int)
        begin = self._data_offset(entry) + first * dtype.itemsize
        tensor = StoredTensor(self._path, self._base + begin, shape, dtype)
        inside = first * dtype.itemsize + tensor.num_bytes <= entry.file_size
        return tensor if inside else None

    def _data_offset(self, entry: ZipInfo) -> int:
        """Where an entry's bytes begin: behind its local header, whose length varies."""
        self._stream.seek(entry.header_offset + _LENGTHS_OFFSET)
        name, extra = (int.from_bytes(self._stream.read(2), "little") for _ in range(2))
        return int(entry.header_offset) + _LOCAL_HEADER_BYTES + name + extra


def _is_index(value: object) -> bool:
    """A whole number from 0 on; True and False are none."""
    return type(value) is int and value >= 0


def _row_major(size: object, stride: object) -> Shape | None:
    """The shape of a tensor whose strides are those of one row after the other; None for others."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        return None
    if not all(map(_is_index, (*size, *stride))):
        return None
    step = 1
    for length, distance in zip(reversed(size), reversed(stride), strict=True):
        if distance != step and length > 1:  # the stride of an axis of one index has no effect
            return None
        step *= length
    return size
