"""Arrow arrays from Python and numpy values, made of their buffers, and Arrow's functions by name.

`pa.array` and `to_numpy` import pandas where it is installed. That takes 0.2 seconds, and a small
run takes less than a second. For the same reason arrays are not asked for their methods `take` and
`dictionary_encode`: these import `pyarrow.compute`, which builds a Python function for each of
Arrow's 300 and takes 40 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

try:
    from pyarrow._compute import call_function
except ImportError:  # the module is private: another version of pyarrow may name it otherwise
    from pyarrow.compute import call_function


def strings(encoded: Sequence[bytes], kind: pa.DataType | None = None) -> pa.Array:
    """A large_string array, or a `kind` of string array, of these UTF-8 values without nulls."""
    kind = kind or pa.large_string()
    ends = np.zeros(len(encoded) + 1, _offset_type(kind))
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=ends[1:])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(kind, len(encoded), buffers)


def integers(values: NDArray[np.int64]) -> pa.Array:
    """An int64 array without nulls."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def call(function: str, *arguments: Any) -> Any:
    """The result of a function of Arrow, such as "take", with its default options."""
    return call_function(function, list(arguments))


def offsets_of(values: pa.Array) -> NDArray[np.integer]:
    """Offsets [len(values) + 1] of a string array into its value buffer, without a copy."""
    kind = _offset_type(values.type)
    offsets: NDArray[np.integer] = np.frombuffer(values.buffers()[1], kind)
    return offsets[values.offset : values.offset + len(values) + 1]


def _offset_type(kind: pa.DataType) -> type[np.integer]:
    return np.int64 if pa.types.is_large_string(kind) else np.int32
