"""Parquet and JSON lines to tokenized, memory-mapped .bin/.idx files, as Megatron writes them.

Names are imported when they are first used, so that `import ml_data` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ml_data.version import __version__ as __version__

if TYPE_CHECKING:
    from ml_data.api import tokenize, verify
    from ml_data.indexed.reader import IndexedDataset
    from ml_data.indexed.writer import IndexedDatasetWriter

__all__ = ["IndexedDataset", "IndexedDatasetWriter", "tokenize", "verify"]

_HOMES = {
    "tokenize": "ml_data.api",
    "verify": "ml_data.api",
    "IndexedDataset": "ml_data.indexed.reader",
    "IndexedDatasetWriter": "ml_data.indexed.writer",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ml_data' has no attribute {name!r}")
