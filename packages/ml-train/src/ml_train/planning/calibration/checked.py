"""Values of a device file with their types checked, each refused in a sentence that names it."""

import math
from collections.abc import Collection, Mapping
from typing import cast


class FaultyTableError(ValueError):
    """A table that no calibration wrote. The text names the key, the value and the rule."""


def table(value: object, where: str, keys: Collection[str] = ()) -> Mapping[str, object]:
    """A table; with `keys`, of exactly these."""
    if not isinstance(value, Mapping) or not value and keys:
        raise _fault(where, value, "a table")
    for key in value:
        if keys and key not in keys:
            raise FaultyTableError(f"{where}.{key} is unknown; known: {', '.join(keys)}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise FaultyTableError(f"{where} lacks {', '.join(missing)}")
    return value


def number(value: object, where: str, *, least: float = math.ulp(0.0)) -> float:
    """A finite number above 0, or from `least` on."""
    # Python counts True as a number.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and least <= cast(float, value) < math.inf:
        return float(cast(float, value))
    raise _fault(where, value, "a number above 0" if least > 0 else "a number from 0 on")


def count(value: object, where: str) -> int:
    """A whole number above 0."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise _fault(where, value, "a whole number above 0")


def truth(value: object, where: str) -> bool:
    """true or false."""
    if isinstance(value, bool):
        return value
    raise _fault(where, value, "true or false")


def items(value: object, where: str, *, length: int | None = None) -> list[object]:
    """A list, not empty; with `length`, of so many items."""
    if isinstance(value, list) and len(value) == (length or len(value) or 1):
        return value
    rule = f"a list of {length}" if length else "a list of one item or more"
    raise _fault(where, value, rule)


def rising(values: list[float], where: str) -> None:
    """Numbers of which each is larger than the one before."""
    if any(left >= right for left, right in zip(values, values[1:], strict=False)):
        raise _fault(where, values, "rising numbers")


def _fault(where: str, value: object, rule: str) -> FaultyTableError:
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "..."
    return FaultyTableError(f"{where} is {shown}; rule: {rule}")


_SHOWN_CHARACTERS = 60
"""Of a value: a grid has hundreds of numbers."""
