"""Sentences for the user that are no errors, and who takes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

Notice = Callable[[str], None]
"""Takes a sentence for the user that is no error."""


def ignore_notice(text: str) -> None:
    """Drop a notice, for callers that have nobody to tell."""


def warn(text: str) -> None:
    """Pass a notice on as a Python warning."""
    warnings.warn(text, stacklevel=4)
