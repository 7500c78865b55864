"""Output files get their final names together, and replace nothing that is not this package's own.

Every writer goes this way: tokenize, merge, split, and `IndexedDatasetWriter` from Python.

    begin      before the first byte: lock the work folder, and check that every final name is
               free or that its file may be replaced
    (write)    everything lies under temporary names in the work folder
    publish    check again; remove the output that is replaced; rename, the .idx last

A pair is valid when its .idx is there, so a reader never meets half of a pair. A process that dies
in `publish` leaves the rest in the work folder, and the next `publish` goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ml_data.errors import OutputError
from ml_data.indexed import layout
from ml_data.indexed.files import (
    FileFacts,
    checksum,
    reporting_output,
    sync_directory,
    sync_file,
)
from ml_data.indexed.manifest import Manifest
from ml_data.indexed.ownership import QUARANTINE, SUFFIXES, exists, stranger
from ml_data.indexed.work import WorkFolder
from ml_data.notices import Notice, ignore_notice

# The order lets a later command finish a removal that was cut off. The .bin and the quarantine go
# first, while the manifest and the index still prove that they are outputs of this package. The
# .idx goes last, as its own header proves it.
_REMOVED_IN_ORDER = (QUARANTINE, ".bin", ".json", ".idx")


class Publication:
    """The outputs `prefixes` of a command, whose temporary files lie in the folder `work`.

    With `has_manifest` every output gets a manifest, which is then the first file to be renamed.
    """

    def __init__(
        self,
        prefixes: Sequence[str | Path],
        work: Path,
        *,
        overwrite: bool,
        has_manifest: bool = True,
        notice: Notice = ignore_notice,
    ) -> None:
        self._prefixes, self.work = [str(prefix) for prefix in prefixes], work
        self._folder: WorkFolder | None = None
        self._overwrite, self._notice = overwrite, notice
        self._first = ".json" if has_manifest else ".bin"
        # A file that was once proved to be an output of this package stays so until it changes,
        # also when the file that proved it is gone: `publish` removes them in turn.
        self._own: set[tuple[str, int, int, int]] = set()

    def begin(self) -> None:
        """Lock the work folder, check the final names, and remove what an earlier command left.

        Raises OutputError where another command holds the folder or a name is taken.
        """
        folder = WorkFolder(self.work, self._notice)
        try:
            self.check()
        except BaseException:
            folder.leave()
            raise
        try:
            folder.clear()
        except BaseException:
            folder.remove()
            raise
        self._folder = folder

    def remove_work(self) -> None:
        """Remove the work folder that `begin` locked, with all that lies in it."""
        if self._folder is not None:
            self._folder.remove()

    def keep_work(self) -> None:
        """Unlock the work folder that `begin` locked, and leave its files where they are."""
        if self._folder is not None:
            self._folder.release()

    def check(self) -> None:
        """Raise OutputError where a final name is taken by a file that may not be replaced."""
        self.refuse_strangers()
        if self._overwrite:
            return
        for prefix in self._prefixes:
            self._refuse_existing(prefix)

    def refuse_strangers(self) -> None:
        """Raise OutputError where a final name is taken by a file that is not our own."""
        for prefix in self._prefixes:
            self._refuse_strangers(prefix)

    def temporary(self, prefix: str | Path, suffix: str) -> Path:
        """Where the file `prefix` + `suffix` lies until it is published."""
        return temporary_path(self.work, prefix, suffix)

    def seal_quarantine(self, prefix: str | Path, file: BinaryIO) -> FileFacts | None:
        """Complete the temporary quarantine `file`; None where it is empty, and then removed."""
        temporary = self.temporary(prefix, QUARANTINE)
        sync_file(file, self._notice)
        size = file.tell()
        file.close()
        if size:
            return FileFacts(num_bytes=size, sha256=checksum(temporary).hexdigest())
        temporary.unlink()
        return None

    def write_manifest(self, prefix: str | Path, manifest: Manifest) -> None:
        """Write the manifest under its temporary name."""
        with reporting_output(layout.manifest_path(prefix)):
            with self.temporary(prefix, ".json").open("wb") as file:
                file.write(manifest.to_bytes())
                sync_file(file, self._notice)

    def is_sealed(self) -> bool:
        """Whether every file of every output has its temporary or its final name."""
        return all(
            exists(self.temporary(prefix, suffix)) or exists(Path(f"{prefix}{suffix}"))
            for prefix in self._prefixes
            for suffix in (self._first, ".bin", ".idx")
        )

    def publish(self) -> None:
        """Give every output its final names. After a crash in the middle, a second call goes on."""
        for prefix in self._prefixes:
            with reporting_output(prefix):
                self._publish(prefix)

    def _publish(self, prefix: str) -> None:
        if exists(self.temporary(prefix, self._first)):
            # The first file still has its temporary name, so no file of this output has its final
            # name yet. Files under these names are of an older output.
            self._refuse_strangers(prefix)
            if not self._overwrite:
                self._refuse_existing(prefix)
            for suffix in _REMOVED_IN_ORDER:
                if exists(Path(f"{prefix}{suffix}")):
                    Path(f"{prefix}{suffix}").unlink()
        for suffix in SUFFIXES:
            temporary, final = self.temporary(prefix, suffix), Path(f"{prefix}{suffix}")
            # An earlier `publish` that was cut off has renamed this file, or there is none.
            if not temporary.exists():
                continue
            # Checked again right before the rename, which would replace a file in silence.
            if exists(final):
                raise OutputError(
                    f"{final} appeared while the output was written: it is kept. Move it away and "
                    "run the same command again"
                )
            temporary.replace(final)
        sync_directory(Path(prefix).parent, self._notice)

    def _refuse_strangers(self, prefix: str) -> None:
        for suffix in SUFFIXES:
            path = Path(f"{prefix}{suffix}")
            with reporting_output(path):
                if not exists(path) or _state(path) in self._own:
                    continue
                reason = stranger(prefix, suffix, self.temporary(prefix, ".idx"))
                if reason is None:
                    self._own.add(_state(path))
            if reason is not None:
                raise OutputError(
                    f"{path} exists and is not an output of ml-data that may be replaced "
                    f"({reason}): choose another prefix, or move it away"
                )

    def _refuse_existing(self, prefix: str) -> None:
        for suffix in SUFFIXES:
            if exists(Path(f"{prefix}{suffix}")):
                raise OutputError(
                    f"{prefix}{suffix} exists: choose another prefix, or replace the output that "
                    "it belongs to with --overwrite (overwrite=True in Python)"
                )


def _state(path: Path) -> tuple[str, int, int, int]:
    facts = path.lstat()
    return str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns


def temporary_path(work: Path, prefix: str | Path, suffix: str) -> Path:
    """Where the file `prefix` + `suffix` lies in the folder `work` until it is published."""
    return work / f"{Path(prefix).name}{suffix}.tmp"
