"""Map a file into memory without keeping it open.

Python's mmap, and with it np.memmap, keeps a file descriptor open for each map. With the usual
limit of 1,024 descriptors a blend of more than 500 prefixes cannot be opened. The operating system
needs no descriptor once a file is mapped, so its own mmap is called here.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FAILED = ctypes.c_void_p(-1).value


@cache
def _system() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    ]  # fmt: skip
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, read-only; unmapped when the last view of them is gone."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return np.empty(0, np.uint8)
        if os.name != "posix":
            return np.memmap(file, np.uint8, mode="r")
        system = _system()
        # Some FUSE file systems have private maps alone; for reading the two are the same.
        for kind in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            address = system.mmap(None, size, mmap.PROT_READ, kind, file.fileno(), 0)
            if address != _FAILED:
                break
        else:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    # The array of the view refers to `memory`, so the file is unmapped after the last view is gone.
    # It is not unmapped at exit, where Python may still run code that reads a view.
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, system.munmap, address, size).atexit = False
    view: NDArray[np.uint8] = np.frombuffer(memoryview(memory), np.uint8)
    view.flags.writeable = False
    return view
