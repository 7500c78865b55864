"""Refuse inputs that change during a run: the output would mix two states of a file.

Size and time of change are compared, as everything else takes long. A file whose bytes change
while both stay the same passes; the sha256 in the manifest tells later.
"""

from __future__ import annotations

from pathlib import Path

from ml_data.documents.sources import SourceFile
from ml_data.documents.sources.remote import remote_state
from ml_data.errors import ChangedInputError, InputError


def require_unchanged(source: SourceFile) -> None:
    """Raise ChangedInputError where `source` is no longer the file that was planned with."""
    try:
        num_bytes, modified_ns = _state_of(source)
    except (InputError, FileNotFoundError) as error:
        raise ChangedInputError(
            f"input {source.name} cannot be looked at any more, so it may have changed while it "
            f"was read: {error}"
        ) from error
    if num_bytes != source.num_bytes:
        how = f"{source.num_bytes} bytes at the start, {num_bytes} now"
    elif modified_ns != source.modified_ns:
        how = "it was modified; its size is the same"
    else:
        return
    raise ChangedInputError(
        f"input {source.name} changed while it was read ({how}): the output would mix two states "
        "of it. Wait until it is complete, then run again"
    )


def _state_of(source: SourceFile) -> tuple[int, int]:
    """(size in bytes, time of change in ns) now, measured as in the listing."""
    if source.is_local:
        facts = Path(source.path).stat()
        return facts.st_size, facts.st_mtime_ns
    return remote_state(source)
