"""What the inputs of a run name: one list of files, each once, and what was left out of it.

`resolve.py` makes that list, from `local.py` for paths and `remote.py` for URIs.
"""

from ml_data.documents.sources.files import LeftOut
from ml_data.documents.sources.resolve import (
    Listing,
    enumerate_names,
    find_sources,
    resolve,
)
from ml_data.documents.sources.source import Source, reporting_input, source_checksum

__all__ = [
    "LeftOut",
    "Listing",
    "Source",
    "enumerate_names",
    "find_sources",
    "reporting_input",
    "resolve",
    "source_checksum",
]
