"""One output of a run: P_key_document and its quarantine, ledger and manifest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ml_data.errors import InputError
from ml_data.indexed import layout
from ml_data.indexed.files import FileFacts, checksum, close_as_it_is, reporting_output, sync_file
from ml_data.indexed.writer import IndexedDatasetWriter, Written
from ml_data.pipeline.encode import Encoded
from ml_data.pipeline.ledger import Ledger


def quarantine_path(prefix: str | Path) -> Path:
    """`prefix` plus `.quarantine.jsonl`."""
    return Path(f"{prefix}.quarantine.jsonl")


class Output:
    """Takes results in order; everything lies in the work folder until `moves` are made."""

    def __init__(
        self, prefix: str, key: str, dtype: np.dtype, work: Path, on_error: str,
        state: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.prefix, self.key, self._on_error = prefix, key, on_error
        work_prefix = work / Path(prefix).name
        written = Written(**state["written"]) if state else None
        self.writer = IndexedDatasetWriter(prefix, dtype, work_prefix=work_prefix, resume=written)
        self.ledger = Ledger(**state["ledger"]) if state else Ledger()
        self._quarantine = Path(f"{work_prefix}.quarantine.tmp")
        self._manifest = Path(f"{work_prefix}.json.tmp")
        with reporting_output(quarantine_path(prefix)):
            if state and self._quarantine.exists():
                os.truncate(self._quarantine, state["quarantine_bytes"])
            else:
                self._quarantine.write_bytes(b"")
            self._quarantine_file = self._quarantine.open("ab")

    def add(self, source: str, encoded: Encoded) -> None:
        """Append one batch of `source`. Raises InputError for a bad row under `stop`."""
        if encoded.bad and self._on_error == "stop":
            row = encoded.bad[0]
            raise InputError(
                f"{source}, row {row['row']}, key {self.key!r}: {row['reason']}: {row['detail']}. "
                "Mend the row, or choose --on-error quarantine or skip"
            )
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
            sync_file(self._quarantine_file)
        return {
            "written": self.writer.written.to_dict(),
            "ledger": self.ledger.to_dict(),
            "quarantine_bytes": self._quarantine_file.tell(),
        }

    def seal(self) -> dict[str, FileFacts]:
        """Complete the files under their temporary names; facts by suffix."""
        facts = self.writer.seal()
        with reporting_output(quarantine_path(self.prefix)):
            sync_file(self._quarantine_file)
            size = self._quarantine_file.tell()
            self._quarantine_file.close()
        if size:
            digest = checksum(self._quarantine).hexdigest()
            facts[".quarantine.jsonl"] = FileFacts(num_bytes=size, sha256=digest)
        return facts

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest under its temporary name."""
        with reporting_output(layout.manifest_path(self.prefix)):
            with self._manifest.open("wb") as file:
                file.write(json.dumps(manifest, indent=2).encode("ascii") + b"\n")
                sync_file(file)

    def close(self) -> None:
        """Give the files back without finishing them; a later run goes on with them."""
        self.writer.close()
        close_as_it_is(self._quarantine_file)


def moves_of(prefix: str, work: Path) -> list[tuple[Path, Path]]:
    """(temporary, final) names of a sealed output, the .idx last."""
    base = work / Path(prefix).name
    quarantine = Path(f"{base}.quarantine.tmp")
    moves = [(Path(f"{base}.bin.tmp"), layout.bin_path(prefix))]
    if quarantine.exists() and quarantine.stat().st_size:
        moves.append((quarantine, quarantine_path(prefix)))
    moves.append((Path(f"{base}.json.tmp"), layout.manifest_path(prefix)))
    moves.append((Path(f"{base}.idx.tmp"), layout.idx_path(prefix)))
    return moves
