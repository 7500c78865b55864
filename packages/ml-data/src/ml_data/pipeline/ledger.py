"""Counts of a run: documents and tokens in = written + dropped, each drop with its reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ml_data.pipeline.encode import EncodedBatch


@dataclass
class OutputLedger:
    """Counts of one output. Empty documents are written; `tokens_in` includes their ends."""

    documents_in: int = 0
    documents_written: int = 0
    documents_empty: int = 0
    documents_dropped: dict[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_written: int = 0
    tokens_dropped: int = 0

    def add(self, encoded: EncodedBatch) -> None:
        """Count one batch."""
        written = len(encoded.lengths)
        self.documents_in += written + len(encoded.bad)
        self.documents_written += written
        self.documents_empty += encoded.num_empty
        for row in encoded.bad:
            reason = row["reason"]
            self.documents_dropped[reason] = self.documents_dropped.get(reason, 0) + 1
        self.tokens_in += len(encoded.ids) + encoded.tokens_dropped
        self.tokens_written += len(encoded.ids)
        self.tokens_dropped += encoded.tokens_dropped

    def to_dict(self) -> dict[str, Any]:
        """JSON values, reasons in a fixed order."""
        values = asdict(self)
        values["documents_dropped"] = dict(sorted(self.documents_dropped.items()))
        return values

    @property
    def num_dropped(self) -> int:
        """Documents dropped, for any reason."""
        return sum(self.documents_dropped.values())
