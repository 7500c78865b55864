"""What a check of a rehearsal gives."""

import re
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "ok"]

_END_OF_SENTENCE = re.compile(r"(?<=[.)])\s+(?=[A-Z-])|\n")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the report."""

    severity: Severity
    """error: the job would fail, or train something else than was meant. warning: worth a look.
    ok: what was looked at and is sound."""
    subject: str
    """The check, such as "data"."""
    what: str
    fix: str = ""
    """Empty where nothing is wrong."""


def sound(subject: str, what: str) -> Finding:
    """What was looked at and is sound."""
    return Finding(severity="ok", subject=subject, what=what)


def wrong(
    subject: str, error: Exception | str, *, fix: str, severity: Severity = "error"
) -> Finding:
    """A finding from an error of training, whose first sentence says what is wrong.

    The sentences after it are the fix. `fix` stands where the error has one sentence alone.
    """
    text = str(error).strip() or type(error).__name__
    first, _, rest = _END_OF_SENTENCE.sub("\n", text, count=1).partition("\n")
    return Finding(severity=severity, subject=subject, what=first, fix=rest.strip() or fix)
