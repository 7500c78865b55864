"""Figures and tables as ml-train shows them: on the console, in the report, by the verify commands.

A figure of a kind is written in one way everywhere, so that a console line, a report and a table
can be compared by eye.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNLIMITED_COLUMNS = 10_000
"""A width that no table reaches: text for a log file must not be folded to a terminal's width."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: numbers stand flush right, text flush left."""

    heading: str
    is_text: bool = False


def make_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, title: str | None = None
) -> Table:
    """A ruled table for terminal.table()."""
    return _fill(Table(title=title), columns, rows)


def plain_text(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """A line of headings and a line per row, without rules, as a log file wants them."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    stream = io.StringIO()
    Console(file=stream, width=_UNLIMITED_COLUMNS, color_system=None).print(
        _fill(table, columns, rows)
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _fill(table: Table, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Table:
    for column in columns:
        justify = "left" if column.is_text else "right"
        table.add_column(column.heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        # Text, as rich would read square brackets in a plain string as markup.
        table.add_row(*(Text(cell) for cell in row))
    return table


def loss(value: float) -> str:
    """Nats per token: 8.1234."""
    return f"{value:.4f}"


def per_second(value: float) -> str:
    """Tokens per second: 12,345."""
    return f"{value:,.0f}"


def tflops(value: float) -> str:
    """TFLOP/s: 312.4 of a GPU, 0.0171 of a CPU."""
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def percent(share: float) -> str:
    """0.413 is 41.3%."""
    return f"{share:.1%}"


def gibibytes(num_bytes: float) -> str:
    """2**30 bytes are 1.00 GiB."""
    return f"{num_bytes / 2**30:.2f} GiB"


def difference(value: float) -> str:
    """Between two runs: 1.2e-06."""
    return f"{value:.1e}"
