"""The verdict on a step, which callbacks give after its backward pass and before its update.

accept     make the update
skip       make no update; the step counts and the data goes on
rollback   make no update; load the newest checkpoint and go on with the data after this step
stop       make no update; the run ends with an error
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Action(enum.IntEnum):
    """Ordered by gravity: of several verdicts on one step the highest counts."""

    ACCEPT = 0
    SKIP = 1
    ROLLBACK = 2
    STOP = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What happens to a step. It must be the same on every rank."""

    action: Action
    reason: str = ""
    """Text of the error that a stop raises, or a rollback without a checkpoint to load."""


ACCEPTED = Verdict(action=Action.ACCEPT)


def gravest(verdicts: Iterable[Verdict | None]) -> Verdict:
    """The verdict with the highest action, the first of several such. None is no objection."""
    given = (verdict for verdict in verdicts if verdict is not None)
    return max(given, key=lambda verdict: verdict.action, default=ACCEPTED)
