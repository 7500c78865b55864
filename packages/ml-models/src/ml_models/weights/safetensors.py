"""The header of a safetensors file, read and written.

A file is 8 bytes (length of the header, little-endian), the header (JSON: name -> dtype, shape,
begin and end in the data), and the data.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ml_models.errors import WeightError
from ml_models.files.placeholders import placeholder
from ml_models.weights.arrays import StoredTensor
from ml_models.weights.boxes import Shape, volume
from ml_models.weights.listed import DTYPES, NAMES, ListedTensor

MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors library


def read_header(path: Path) -> dict[str, ListedTensor]:
    """The tensors of a safetensors file. Raises WeightError where it is truncated or damaged."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 0 < length <= MAX_HEADER_BYTES:
                reason = placeholder(path) or "not a safetensors file, or truncated"
                raise WeightError(f"{path}: {reason}.")
            text = file.read(length)
        if len(text) != length:
            raise WeightError(f"{path}: truncated inside its header.")
        header = json.loads(text)
        return {
            name: _listed(path, name, entry, 8 + length, size)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError as error:
        raise WeightError(f"{path}: missing.") from error
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror}).") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        struct.error,
    ) as error:
        raise WeightError(f"{path}: its header is damaged ({error}).") from error


def _listed(path: Path, name: str, entry: Any, data: int, size: int) -> ListedTensor:
    """An entry of a header; `data` is the offset of the file's data, `size` that of the file."""
    begin, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), str(entry["dtype"])
    if any(type(number) is not int or number < 0 for number in (begin, end, *shape)):
        raise WeightError(f"{path}: the header gives {name} no sizes.")
    if data + end > size:
        raise WeightError(
            f"{path}: truncated, it has {size} bytes and a tensor ends at {data + end}."
        )
    stored = None
    if dtype in DTYPES:
        stored = StoredTensor(path, data + begin, shape, DTYPES[dtype])
        if end - begin != stored.num_bytes:
            raise WeightError(f"{path}: the header gives {name} a wrong size.")
    return ListedTensor(path, shape, dtype, stored)


def header_bytes(tensors: Mapping[str, tuple[Shape, torch.dtype]]) -> bytes:
    """The header of a file that holds `tensors` in this order, padded to a multiple of 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, dtype) in tensors.items():
        size = volume(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
