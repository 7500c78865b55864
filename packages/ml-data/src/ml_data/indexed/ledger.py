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
        """The ledger of a manifest or a journal. Raises TypeError for what is no count."""
        known = {name: values[name] for name in _NAMES if name in values}
        for name, value in known.items():
            is_by_reason = name == "documents_dropped"
            counts = value.values() if is_by_reason and isinstance(value, dict) else [value]
            if not _are_counts(counts) or is_by_reason != isinstance(value, dict):
                raise TypeError(f"{name} of its ledger is {value!r}")
        other = {name: count for name, count in values.items() if name not in _NAMES}
        return cls(**known, other=other)  # type: ignore[arg-type]

    @property
    def num_dropped(self) -> int:
        """Documents dropped, for any reason."""
        return sum(self.documents_dropped.values())

    def require_sums(self, num_documents: int | None, num_tokens: int | None) -> None:
        """Raise ValueError where the counts contradict each other or these counts of the pair.

        None stands for a count that is not known.
        """
        for what, total, sum_of_parts in (
            ("documents_in", self.documents_in, self.documents_written + self.num_dropped),
            ("tokens_in", self.tokens_in, self.tokens_written + self.tokens_dropped),
        ):
            if total != sum_of_parts:
                raise ValueError(
                    f"{what} of its ledger is {total}, but {sum_of_parts} were written or dropped"
                )
        for what, counted, stated in (
            ("documents", self.documents_written, num_documents),
            ("tokens", self.tokens_written, num_tokens),
        ):
            if stated is not None and counted != stated:
                raise ValueError(
                    f"{what}_written of its ledger is {counted}, but num_{what} is {stated}"
                )
        if self.documents_empty > self.documents_written:
            raise ValueError(
                f"documents_empty of its ledger is {self.documents_empty}, but only "
                f"{self.documents_written} were written"
            )

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


def _are_counts(values: Iterable[object]) -> bool:
    """Whether all of these are integers from 0 on; True and False are none."""
    return all(type(value) is int and value >= 0 for value in values)


def _add_counts(total: dict[str, int], added: Mapping[str, int]) -> None:
    for name, count in added.items():
        total[name] = total.get(name, 0) + count


def sum_of(ledgers: Iterable[OutputLedger]) -> OutputLedger:
    """The sum of several ledgers."""
    total = OutputLedger()
    for ledger in ledgers:
        total.add(ledger)
    return total
