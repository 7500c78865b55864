"""One output of a run: P_key_document and its quarantine, ledger and manifest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ml_data.errors import InputError
from ml_data.indexed import layout
from ml_data.indexed.files import (
    FileFacts,
    Notice,
    checksum,
    close_as_it_is,
    ignore_notice,
    reporting_output,
    sync_file,
)
from ml_data.indexed.ownership import QUARANTINE, quarantine_path
from ml_data.indexed.pair_writer import PairWriter, WriterState, temporary_files
from ml_data.indexed.publication import temporary_path
from ml_data.pipeline.encode import EncodedBatch
from ml_data.pipeline.ledger import OutputLedger


class TokenizeOutput:
    """Takes results in order; everything lies in the work folder until it is published."""

    def __init__(
        self,
        prefix: str,
        key: str,
        dtype: np.dtype,
        work: Path,
        on_error: str,
        state: dict[str, Any] | None = None,
        notice: Notice = ignore_notice,
    ) -> None:
        self.prefix, self.key, self._on_error, self._notice = prefix, key, on_error, notice
        written = WriterState(**state["written"]) if state else None
        self.writer = PairWriter(prefix, dtype, work, resume=written, notice=notice)
        self.first_bad = ""
        self.ledger = OutputLedger(**state["ledger"]) if state else OutputLedger()
        self._quarantine = temporary_path(work, prefix, QUARANTINE)
        self._manifest = temporary_path(work, prefix, ".json")
        with reporting_output(quarantine_path(prefix)):
            # A run that was killed while it sealed has taken an empty one away.
            kept_bytes = state["quarantine_bytes"] if state else 0
            if kept_bytes:
                os.truncate(self._quarantine, kept_bytes)
            self._quarantine_file = self._quarantine.open("ab" if kept_bytes else "wb")

    def add(self, source: str, encoded: EncodedBatch) -> None:
        """Append one batch of `source`. Raises InputError for a bad row under `stop`."""
        if encoded.bad and self._on_error == "stop":
            row = encoded.bad[0]
            raise InputError(
                f"{source}, row {row['row']}, key {self.key!r}: {row['reason']}: {row['detail']}. "
                "Mend the row, or choose --on-error quarantine or skip"
            )
        if encoded.bad and not self.first_bad:
            row = encoded.bad[0]
            self.first_bad = f", first {source}, row {row['row']}: {row['detail']}"
        self.writer.add_batch(encoded.ids, encoded.lengths)
        self.ledger.add(encoded)
        if self._on_error == "quarantine":
            with reporting_output(quarantine_path(self.prefix)):
                for row in encoded.bad:
                    line = json.dumps({"source": source, "key": self.key, **row}, default=str)
                    self._quarantine_file.write(line.encode("ascii") + b"\n")

    def sync(self) -> dict[str, Any]:
        """Make everything so far durable; the state to resume from."""
        self.writer.sync()
        with reporting_output(quarantine_path(self.prefix)):
            sync_file(self._quarantine_file, self._notice)
        return {
            "written": self.writer.written.to_dict(),
            "ledger": self.ledger.to_dict(),
            "quarantine_bytes": self._quarantine_file.tell(),
        }

    def seal(self) -> dict[str, FileFacts]:
        """Complete the files under their temporary names; facts by suffix."""
        facts = self.writer.seal()
        with reporting_output(quarantine_path(self.prefix)):
            sync_file(self._quarantine_file, self._notice)
            size = self._quarantine_file.tell()
            self._quarantine_file.close()
        if size:
            digest = checksum(self._quarantine).hexdigest()
            facts[QUARANTINE] = FileFacts(num_bytes=size, sha256=digest)
        else:
            self._quarantine.unlink()
        return facts

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest under its temporary name."""
        with reporting_output(layout.manifest_path(self.prefix)):
            with self._manifest.open("wb") as file:
                file.write(json.dumps(manifest, indent=2).encode("ascii") + b"\n")
                sync_file(file, self._notice)

    def close(self) -> None:
        """Give the files back without finishing them; a later run goes on with them."""
        self.writer.close()
        close_as_it_is(self._quarantine_file)


def missing_of(prefix: str, dtype: np.dtype, work: Path, state: dict[str, Any]) -> str | None:
    """Why an output cannot go on from `state` of an earlier process; None when it can."""
    needed = {
        temporary_files(work, prefix)[name]: size
        for name, size in WriterState(**state["written"]).file_bytes(dtype).items()
    }
    needed[temporary_path(work, prefix, QUARANTINE)] = state["quarantine_bytes"]
    for path, size in needed.items():
        present = path.stat().st_size if path.is_file() else 0
        if present < size:
            return f"{path} has {present} of the {size} bytes that its journal says"
    return None
