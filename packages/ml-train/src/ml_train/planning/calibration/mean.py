"""The mean of what several processes measured."""

import statistics
from collections.abc import Mapping, Sequence


def mean_table(tables: Sequence[object]) -> object:
    """Tables and lists of the same form -> one of that form, with the means of their floats.

    What is not a float, such as a size, is the same in all of them.
    """
    first = tables[0]
    if isinstance(first, Mapping):
        return {key: mean_table([table[key] for table in tables]) for key in first}  # type: ignore[index]
    if isinstance(first, list):
        return [mean_table(column) for column in zip(*tables, strict=True)]  # type: ignore[arg-type]
    if isinstance(first, float):
        return statistics.fmean(tables)  # type: ignore[arg-type]
    return first
