"""What the inputs of a run name: one list of files, each of them once, and what was left out of it.

`resolve.py` makes that list, from `local.py` for paths and `remote.py` for URIs.
"""

from ml_data.documents.sources.files import LeftOutFile
from ml_data.documents.sources.resolve import InputListing, enumerate_names, resolve
from ml_data.documents.sources.source import SourceFile, reporting_input, source_checksum

__all__ = [
    "InputListing",
    "LeftOutFile",
    "SourceFile",
    "enumerate_names",
    "reporting_input",
    "resolve",
    "source_checksum",
]
