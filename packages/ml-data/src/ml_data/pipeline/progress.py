"""How far a run is: the bytes that it has read, of all bytes that there are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ml_data.documents.batch import Batch
from ml_data.pipeline.plan import TokenizePlan


@dataclass(frozen=True, kw_only=True)
class ProgressUpdate:
    """Counts of this run so far. `fraction` is of the bytes of all inputs, earlier runs included.

    `seconds_left` assumes that the run goes on as fast as so far; None before anything is known.
    """

    num_documents: int
    num_bytes: int
    seconds: float
    fraction: float
    seconds_left: float | None


OnProgress = Callable[[ProgressUpdate], None]


def ignore_progress(update: ProgressUpdate) -> None:
    """Drop an update, for callers that show none."""


class ProgressMeter:
    """Turns finished batches into an update every `--log-interval` documents."""

    def __init__(self, plan: TokenizePlan, on_progress: OnProgress) -> None:
        self._plan, self._on_progress = plan, on_progress
        self._interval = plan.options.log_interval
        self._next = self._interval
        self._started = time.monotonic()
        self._documents = self._bytes = self._reported = 0
        self._fraction_done = 0.0
        self._first: float | None = None
        # Bytes of all inputs before each input.
        self._before, total = [], 0
        for source in plan.sources:
            self._before.append(total)
            total += source.num_bytes
        self._total = max(total, 1)

    def add(self, batch: Batch) -> None:
        """Count a batch, and report when it is time."""
        self._documents += batch.num_rows
        self._bytes += batch.num_bytes
        # A run that goes on from earlier progress starts at this fraction, not at 0.
        if self._first is None:
            self._first = self._fraction(batch)
        self._fraction_done = self._fraction(batch)
        if self._documents >= self._next:
            self._next = self._documents - self._documents % self._interval + self._interval
            self._report()

    def end(self) -> None:
        """Report what came after the last update. A run too short for an update reports nothing."""
        if self._reported not in (0, self._documents):
            self._report()

    def _report(self) -> None:
        self._reported = self._documents
        seconds = time.monotonic() - self._started
        fraction = self._fraction_done
        done = fraction - (self._first or 0.0)
        left = seconds * (1 - fraction) / done if done > 0 else None
        self._on_progress(
            ProgressUpdate(
                num_documents=self._documents,
                num_bytes=self._bytes,
                seconds=seconds,
                fraction=fraction,
                seconds_left=left,
            )
        )

    def _fraction(self, batch: Batch) -> float:
        """Share of the bytes of all inputs that lies before the end of `batch`."""
        file = batch.end.file
        source, size = self._plan.sources[file], self._plan.sizes[file]
        part = 0.0
        if size.num_rows:
            part = batch.end.row / size.num_rows
        elif source.kind == "jsonl" and source.compression is None:
            part = batch.end.offset / source.num_bytes
        return (self._before[file] + part * source.num_bytes) / self._total
