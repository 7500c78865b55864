"""An output of a run: the pair P_key_document, its quarantine and its ledger."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

from ml_data.errors import InputError
from ml_data.indexed.files import FileFacts, close_as_it_is, reporting_output, sync_file
from ml_data.indexed.ledger import OutputLedger
from ml_data.indexed.ownership import QUARANTINE, quarantine_path
from ml_data.indexed.pair_writer import PairWriter, WriterState, temporary_files
from ml_data.indexed.publication import Publication, temporary_path
from ml_data.notices import Notice, ignore_notice
from ml_data.pipeline.encode import EncodedBatch
from ml_data.pipeline.journal import OutputState
from ml_data.pipeline.options import OnError


class TokenizeOutput:
    """Appends results in order, to temporary files in the work folder of `publication`."""

    def __init__(
        self,
        prefix: str,
        key: str,
        dtype: np.dtype,
        publication: Publication,
        on_error: OnError,
        state: OutputState | None = None,
        notice: Notice = ignore_notice,
    ) -> None:
        """`state` is what an earlier process recorded, to go on from there."""
        self.prefix, self.key, self._on_error, self._notice = prefix, key, on_error, notice
        self._publication = publication
        written = WriterState(**state["written"]) if state else None
        self.writer = PairWriter(prefix, dtype, publication.work, resume=written, notice=notice)
        self.first_bad = ""
        self.ledger = OutputLedger.from_json(state["ledger"]) if state else OutputLedger()
        self._quarantine = publication.temporary(prefix, QUARANTINE)
        with reporting_output(quarantine_path(prefix)):
            # A run that was killed while it sealed has removed an empty quarantine.
            kept_bytes = state["quarantine_bytes"] if state else 0
            # Rows after the last finished shard are read again, and set aside again.
            if kept_bytes:
                os.truncate(self._quarantine, kept_bytes)
            self._quarantine_file = self._quarantine.open("ab" if kept_bytes else "wb")

    def add(self, source: str, encoded: EncodedBatch) -> None:
        """Append a batch of `source`. Raises InputError for a bad row under `--on-error stop`."""
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
        self.ledger.add(_ledger_of(encoded))
        if self._on_error == "quarantine":
            with reporting_output(quarantine_path(self.prefix)):
                for row in encoded.bad:
                    line = json.dumps({"source": source, "key": self.key, **row}, default=str)
                    self._quarantine_file.write(line.encode("ascii") + b"\n")

    def sync(self) -> OutputState:
        """Make everything so far durable; the state to go on from."""
        self.writer.sync()
        with reporting_output(quarantine_path(self.prefix)):
            sync_file(self._quarantine_file, self._notice)
        return {
            "written": self.writer.written.to_dict(),
            "ledger": self.ledger.to_json(),
            "quarantine_bytes": self._quarantine_file.tell(),
        }

    def seal(self) -> dict[str, FileFacts]:
        """Complete the files under their temporary names; facts by suffix."""
        facts = self.writer.seal()
        with reporting_output(quarantine_path(self.prefix)):
            quarantine = self._publication.seal_quarantine(self.prefix, self._quarantine_file)
        if quarantine is not None:
            facts[QUARANTINE] = quarantine
        return facts

    def close(self) -> None:
        """Close the files without finishing them, so that a later run can go on with them."""
        self.writer.close()
        close_as_it_is(self._quarantine_file)


def _ledger_of(encoded: EncodedBatch) -> OutputLedger:
    """The counts of a batch."""
    num_written = len(encoded.lengths)
    return OutputLedger(
        documents_in=num_written + len(encoded.bad),
        documents_written=num_written,
        documents_empty=encoded.num_empty,
        documents_dropped=dict(Counter(row["reason"] for row in encoded.bad)),
        tokens_in=len(encoded.ids) + encoded.tokens_dropped,
        tokens_written=len(encoded.ids),
        tokens_dropped=encoded.tokens_dropped,
    )


def missing_of(prefix: str, dtype: np.dtype, work: Path, state: OutputState) -> str | None:
    """Why an output cannot go on from `state` of an earlier process; None when it can."""
    try:
        written = WriterState(**state["written"])
        ledger = OutputLedger.from_json(state["ledger"])
        ledger.require_sums(written.num_documents, written.num_tokens)
    except (KeyError, TypeError, ValueError) as error:
        return f"its journal is damaged: {error}"
    needed = {
        temporary_files(work, prefix)[name]: size
        for name, size in written.file_bytes(dtype).items()
    }
    needed[temporary_path(work, prefix, QUARANTINE)] = state["quarantine_bytes"]
    for path, size in needed.items():
        present = path.stat().st_size if path.is_file() else 0
        if present < size:
            return f"{path} has {present} of the {size} bytes that its journal says"
    return None
