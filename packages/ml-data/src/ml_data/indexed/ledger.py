"""Counts of an output: documents and tokens in = written + dropped, each drop with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields


@dataclass(kw_only=True)
class OutputLedger:
    """Counts of one output. Empty documents are written; `tokens_in` includes their ends."""

    documents_in: int = 0
    documents_written: int = 0
    documents_empty: int = 0
    documents_dropped: dict[str, int] = field(default_factory=dict)
    """By reason."""
    tokens_in: int = 0
    tokens_written: int = 0
    tokens_dropped: int = 0
    other: dict[str, int] = field(default_factory=dict)
    """Counts that a newer version keeps."""

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> OutputLedger:
        """The ledger of a manifest or a journal."""
        known = {name: values[name] for name in _NAMES if name in values}
        other = {name: count for name, count in values.items() if name not in _NAMES}
        return cls(**known, other=other)  # type: ignore[arg-type]

    @property
    def num_dropped(self) -> int:
        """Documents dropped, for any reason."""
        return sum(self.documents_dropped.values())

    def add(self, added: OutputLedger) -> None:
        """Add the counts of another ledger, such as that of a batch or of a task."""
        for name in _NAMES - {"documents_dropped"}:
            setattr(self, name, getattr(self, name) + getattr(added, name))
        _add_counts(self.documents_dropped, added.documents_dropped)
        _add_counts(self.other, added.other)

    def to_json(self) -> dict[str, object]:
        """As in a manifest, reasons in a fixed order."""
        values = asdict(self)
        other = values.pop("other")
        values["documents_dropped"] = dict(sorted(self.documents_dropped.items()))
        return {**values, **other}


_NAMES = frozenset(field.name for field in fields(OutputLedger)) - {"other"}


def _add_counts(total: dict[str, int], added: Mapping[str, int]) -> None:
    for name, count in added.items():
        total[name] = total.get(name, 0) + count


def sum_of(ledgers: Iterable[OutputLedger]) -> OutputLedger:
    """The sum of several ledgers."""
    total = OutputLedger()
    for ledger in ledgers:
        total.add(ledger)
    return total
