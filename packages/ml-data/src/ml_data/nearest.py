"""The known name that a user probably meant by an unknown name."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`did you mean NAME?` with the known name closest to `given`; empty where none is close."""
    # Imported here for start-up time: difflib is needed only when a name is wrong.
    import difflib

    near = difflib.get_close_matches(given, list(known), 1)
    return f"did you mean {near[0]}?" if near else ""
