"""Text in columns: the form of every table that a command prints.

Plain text without frames reads the same on a terminal, in a log and in a file, and a reader can cut
it at the columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GAP = "  "


@dataclass(frozen=True)
class Column:
    """How the cells of a column are laid out."""

    width: int = 0
    """At least; a wider cell widens the column of the whole table."""
    right: bool = False
    """Whether cells end at the same place, as figures do."""


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], indent: str = ""
) -> Iterator[str]:
    """One line per row. A row may have fewer cells than there are columns."""
    widths = [
        max([column.width, *(len(row[number]) for row in rows if number < len(row))])
        for number, column in enumerate(columns)
    ]
    for row in rows:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, column, width in zip(row, columns, widths, strict=False)
        ]
        yield (indent + GAP.join(cells)).rstrip()
