"""The known name that is nearest to an unknown one, for the error message that refuses it."""

from collections.abc import Iterable
from difflib import get_close_matches

CUTOFF = 0.6
"""Least similarity, from 0 to 1: difflib's own default, at which most suggestions are typos."""


def nearest_name(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The most similar of the `known` names; None where none is as similar as `cutoff`."""
    matches = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The last sentence of such a message, with a space in front; empty without a near name."""
    nearest = nearest_name(name, known)
    return "" if nearest is None else f" Did you mean {nearest!r}?"
