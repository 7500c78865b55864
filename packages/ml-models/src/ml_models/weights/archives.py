"""Where the tensors of a torch.save archive lie, without unpickling it.

```
NAME/data.pkl      the object; a tensor is (storage KEY, first element, size, stride)
NAME/data/KEY      the numbers of one storage, uncompressed; several tensors may share it
NAME/byteorder     "little", as a rule
```
An archive may be a file of its own (Megatron's per-rank files) or a part of one (.distcp).
"""

from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

import torch

from ml_models.errors import WeightError
from ml_models.files.pickles import Call
from ml_models.weights.arrays import StoredTensor

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.HalfStorage": torch.float16,
    "torch.DoubleStorage": torch.float64,
}
NEGATED = {"conj", "neg"}  # flags of a tensor whose numbers are not what is stored


class TensorPlaces:
    """Finds tensors of an archive that starts at `base` of the file `path`."""

    def __init__(self, archive: ZipFile, stream: BinaryIO, path: Path, base: int = 0) -> None:
        self._stream, self._path, self._base = stream, path, base
        names = archive.namelist()
        self._top = names[0].split("/")[0]
        self._entries: dict[str, ZipInfo] = dict(zip(names, archive.infolist(), strict=True))
        self._swapped = self._byte_order(archive) != b"little"

    def _byte_order(self, archive: ZipFile) -> bytes:
        entry = self._entries.get(f"{self._top}/byteorder")
        if entry is None:
            return b"little"
        if entry.file_size > len(b"little"):
            return b"unknown"
        try:
            return archive.read(entry)
        except (BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
            raise WeightError(f"{self._path}: damaged zip archive ({error}).") from error

    def find(self, value: Any) -> StoredTensor | None:
        """The place of an inert tensor; None unless its numbers lie row by row, uncompressed."""
        if isinstance(value, Call) and str(value.function) == "torch._utils._rebuild_parameter":
            value = value.arguments[0] if value.arguments else None
        if not isinstance(value, Call) or str(value.function) != "torch._utils._rebuild_tensor_v2":
            return None
        if len(value.arguments) < 4 or self._swapped:
            return None
        storage, first, size, stride = value.arguments[:4]
        flags = value.arguments[6] if len(value.arguments) > 6 else None
        if isinstance(flags, dict) and NEGATED & set(flags):
            return None
        if not isinstance(storage, tuple) or str(storage[1]) not in STORAGES:
            return None
        numbers = _row_major(first, size, stride)
        entry = self._entries.get(f"{self._top}/data/{storage[2]}")
        if numbers is None or entry is None or entry.compress_type:
            return None
        dtype = STORAGES[str(storage[1])]
        if (first + numbers) * dtype.itemsize > entry.file_size:
            return None
        begin = self._data_of(entry) + first * dtype.itemsize
        return StoredTensor(self._path, self._base + begin, size, dtype)

    def _data_of(self, entry: ZipInfo) -> int:
        """Where an entry's bytes begin: behind its local header, whose length varies."""
        self._stream.seek(entry.header_offset + 26)
        name, extra = (int.from_bytes(self._stream.read(2), "little") for _ in range(2))
        return int(entry.header_offset) + 30 + name + extra


def _row_major(first: Any, size: Any, stride: Any) -> int | None:
    """How many numbers a tensor has, if its strides are those of one row after the other."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        return None
    if not all(type(n) is int and n >= 0 for n in (first, *size, *stride)):
        return None
    step = 1
    for length, found in zip(reversed(size), reversed(stride), strict=True):
        if found != step and length > 1:
            return None
        step *= length
    return step
